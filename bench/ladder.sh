#!/usr/bin/env bash
# The ladder: one model, one text, many formats; sizes, perplexity and KL divergence in one table.
# usage, from the repository root: bench/ladder.sh WHIT MODEL TEXT LIST OUT.md [eval options, e.g. --mode chunked --ctx 512]
# Each line of LIST (bench/ladder.list) is a label, then options of `whit quantize`.
set -euo pipefail
whit=$1 model=$2 text=$3 list=$4 out=$5
shift 5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
field() { sed -n "s/^ *\"$2\": *\([^,]*\),*$/\1/p" "$1" | head -1; }

{
	echo "# Ladder of $(basename "$model") on $(basename "$text"), \`whit eval $*\`"
	echo
	echo "bpw: bits per weight of the quantized linears, and of all files over all parameters (quality.md 6). KLD in nats against the"
	echo "source's own weights. $("$whit" --version), $(date -u +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)."
	echo
	echo "| label | options | file bytes | bpw linear | bpw file | perplexity | mean KLD | SE | 99.9 % KLD | same top | rel. MSE |"
	echo "|---|---|---|---|---|---|---|---|---|---|---|"
} >"$out.partial"
while read -r label options; do
	[ -n "$label" ] || continue
	# shellcheck disable=SC2086
	"$whit" quantize "$model" "$work/q" $options --samples 0 --quiet --json "$work/q.json" >/dev/null
	"$whit" eval "$work/q" --ref "$model" --text "$text" "$@" --quiet --json "$work/e.json" >/dev/null
	printf '| %s | `%s` | %s | %.3f | %.3f | %.4f | %.6f | %.6f | %.5f | %.4f | %.6f |\n' "$label" "$options" "$(field "$work/e.json" bytes)" \
		"$(field "$work/e.json" bpw_linear)" "$(field "$work/e.json" bpw_file)" "$(field "$work/e.json" ppl)" \
		"$(field "$work/e.json" kld_mean)" "$(field "$work/e.json" kld_se)" "$(field "$work/e.json" kld_p999)" \
		"$(field "$work/e.json" top1)" "$(field "$work/q.json" rel_mse)" | tee -a "$out.partial"
	rm -rf "$work/q"
	ppl_ref=$(field "$work/e.json" ppl_ref)
done <"$list"
{ echo; printf 'Reference: 16 bits per weight, perplexity %.4f.\n' "$ppl_ref"; } >>"$out.partial"
mv "$out.partial" "$out"
