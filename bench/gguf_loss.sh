#!/usr/bin/env bash
# What GGUF types lose, by whose encoder: llama-quantize's file against whit export's, same mix, same importance.
# usage: gguf_loss.sh LLAMA_BIN WHIT MODEL_DIR CALIBRATION_TEXT TEXT CHUNKS OUT.md [TYPE...]
# Mean KLD against MODEL_DIR over the first CHUNKS windows of TEXT, whit's measure for both: of the weights (--compute
# float), and as computed, activations rounded to 8 bits. Files with equal bits: llama-quantize reads whit's F32 GGUF.
set -euo pipefail
[ $# -ge 7 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
bin=$1 whit=$2 model=$3 calib=$4 text=$5 chunks=$6 out=$7
shift 7
types=${*:-Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0 IQ4_NL IQ4_XS Q3_K_M Q2_K Q2_0 Q1_0}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
context=$(sed -n 's/.*"max_position_embeddings": *\([0-9]*\).*/\1/p' "$model/config.json")
ctx=$((context < 512 ? context : 512))
kld() { # FILE HOW: "KLD SE TOP BPW"
	"$whit" eval "$1" --ref "$model" --text "$text" --mode chunked --ctx "$ctx" --max-tokens $((ctx * chunks)) --compute "$2" \
		--floor-tokens 0 --quiet | awk '/in the whole file/ && !b { b = $7 } /^KLD \(P/ { k = $4; s = $5 } /^same top/ { t = $4 } END { print k, s, t, b }'
}
"$whit" export "$model" "$tmp/f32.gguf" --type F32 --quiet >/dev/null
"$whit" calibrate "$model" --text "$calib" --stats diag --ctx "$ctx" --chunks 400 --out "$tmp/im.gguf" --quiet >/dev/null
{
	echo "# Mean KLD of GGUF types: llama-quantize against whit export, $(basename "$model")"
	echo
	echo "whit $("$whit" --version | cut -d' ' -f2), llama.cpp $("$bin/llama-perplexity" --version 2>&1 | sed -n 's/^version: //p'); $(date +%F). $(basename "$text"), first $chunks windows of $ctx; importance from $(basename "$calib"), at most 400 windows."
	echo "KLD in nats, standard error over windows; weights = decoded to F32, computed = from the blocks, activations at 8 bits."
	echo
	echo "| type | bits, file | importance | llama-quantize: weights | whit: weights | ratio | llama-quantize: computed | whit: computed | whit: same top |"
	echo "|---|---|---|---|---|---|---|---|---|"
	for t in $types; do
		for im in none imatrix; do
			l=() w=()
			[ $im = none ] || { l=(--imatrix "$tmp/im.gguf"); w=(--imatrix "$tmp/im.gguf"); }
			"$bin/llama-quantize" "${l[@]}" "$tmp/f32.gguf" "$tmp/l.gguf" "$t" 2 >/dev/null 2>&1
			"$whit" export "$model" "$tmp/w.gguf" --type "$t" "${w[@]}" --force --quiet >/dev/null
			read -r lk _ _ _ < <(kld "$tmp/l.gguf" float)
			read -r wk se _ _ < <(kld "$tmp/w.gguf" float)
			read -r lc _ _ _ < <(kld "$tmp/l.gguf" packed)
			read -r wc _ top bits < <(kld "$tmp/w.gguf" packed)
			echo "| $t | $bits | $im | $lk | $wk ± $se | $(awk -v a="$wk" -v b="$lk" 'BEGIN { printf "%.3f", a / b }') | $lc | $wc | $top |"
		done
	done
} | tee "$out.part"
mv "$out.part" "$out"
