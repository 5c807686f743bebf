#!/usr/bin/env bash
# What calibration gains: GGUF types by llama-quantize with its imatrix against whit's calibrated codes in the same types,
# and whit's own formats beside them; the calibration text is the same for all.
# usage: calibrated_loss.sh LLAMA_BIN WHIT MODEL_DIR CALIBRATION_TEXT TEXT CHUNKS OUT.md [TYPE...]
# LLAMA_BIN "-": without llama-quantize's rows.
# Mean KLD against MODEL_DIR over the first CHUNKS windows of TEXT, weights decoded to F32 (--compute float), both
# measured by whit. SAMPLES (default 200) windows of the calibration text; BLOCK_STEPS (default 150) of reconstruction;
# ROWS: which of gptq gptaq guided refits steps (default all); OWN: whit's own formats.
set -euo pipefail
[ $# -ge 7 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
bin=$1 whit=$2 model=$3 calib=$4 text=$5 chunks=$6 out=$7
shift 7
types=${*:-Q4_K_M Q3_K_M Q2_K Q4_0 Q2_0 Q1_0}
samples=${SAMPLES:-200} steps=${BLOCK_STEPS:-150}
own=${OWN-tq4 tq3 tq2}
wanted=${ROWS:-gptq gptaq guided refits steps}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
context=$(sed -n 's/.*"max_position_embeddings": *\([0-9]*\).*/\1/p' "$model/config.json")
ctx=$((context < 512 ? context : 512))
kld() { # FILE: "KLD SE TOP BPW"
	"$whit" eval "$1" --ref "$model" --text "$text" --mode chunked --ctx "$ctx" --max-tokens $((ctx * chunks)) --compute float \
		--floor-tokens 0 --quiet | awk '/in the whole file/ && !b { b = $7 } /^KLD \(P/ { k = $4; s = $5 } /^same top/ { t = $4 } END { print k, s, t, b }'
}
calibrated() { # OUT BASE ARGS...: a line for each way of choosing codes
	local to=$1 base=$2 way label start
	shift 2
	for way in $wanted; do
		case $way in
		gptq) label="whit gptq" args=(--method gptq) ;;
		gptaq) label="whit gptaq" args=(--method gptaq) ;;
		guided) label="whit gptaq guided" args=(--method gptaq --metric guided) ;;
		refits) label="whit gptaq guided, 3 refits" args=(--method gptaq --metric guided --refits 3) ;;
		steps) label="whit gptaq, $steps steps a block" args=(--method gptaq --block-steps "$steps") ;;
		esac
		[ "$way" = steps ] && [ "$steps" -eq 0 ] && continue
		start=$SECONDS
		"$whit" quantize "$model" "$to" "${args[@]}" "$@" --text "$calib" --calib-len "$ctx" \
			--calib-samples "$samples" --samples 0 --force --quiet >/dev/null
		seconds=$((SECONDS - start))
		row "$label" "$base" "$to"
	done
}
row() { # LABEL BASE FILE: one line of the table
	read -r k se top bits < <(kld "$3")
	echo "| $1 | $bits | $k ± $se | $(awk -v a="$k" -v b="$2" 'BEGIN { if (b > 0) printf "%.3f", a / b }') | $top | $seconds |"
}
"$whit" export "$model" "$tmp/f32.gguf" --type F32 --quiet >/dev/null
"$whit" calibrate "$model" --text "$calib" --stats diag --ctx "$ctx" --samples "$samples" --out "$tmp/im.gguf" --quiet >/dev/null
{
	echo "# Mean KLD of calibrated codes, $(basename "$model")"
	echo
	echo "whit $("$whit" --version | cut -d' ' -f2)$([ "$bin" = - ] || echo ", llama.cpp $("$bin/llama-perplexity" --version 2>&1 | sed -n 's/^version: //p')"); $(date +%F). $(basename "$text"), first $chunks windows of $ctx; calibration (imatrix, Hessians, reconstruction): first $samples windows of $(basename "$calib")."
	echo "KLD in nats, standard error over windows; ratio to llama-quantize with imatrix in the same type; seconds on $(nproc) cores."
	for t in $types; do
		echo
		echo "| $t | bits, file | KLD | ratio | same top | s |"
		echo "|---|---|---|---|---|---|"
		base=0 seconds=
		if [ "$bin" != - ] && "$bin/llama-quantize" --imatrix "$tmp/im.gguf" "$tmp/f32.gguf" "$tmp/l.gguf" "$t" 2 >/dev/null 2>&1; then
			read -r base _ < <(kld "$tmp/l.gguf")
			row "llama-quantize, imatrix" "$base" "$tmp/l.gguf"
		fi
		"$whit" export "$model" "$tmp/w.gguf" --type "$t" --imatrix "$tmp/im.gguf" --force --quiet >/dev/null
		row "whit nearest, imatrix" "$base" "$tmp/w.gguf"
		calibrated "$tmp/w.gguf" "$base" --format "$t"
	done
	for t in $own; do
		echo
		echo "| $t, Hadamard, embedding q6_k | bits, file | KLD | | same top | s |"
		echo "|---|---|---|---|---|---|"
		printf '@embedding q6_k method=nearest\n@linear %s rotation=hadamard\n' "$t" >"$tmp/own.recipe"
		"$whit" quantize "$model" "$tmp/own" --recipe "$tmp/own.recipe" --samples 0 --force --quiet >/dev/null
		row "whit turboquant" 0 "$tmp/own"
		calibrated "$tmp/own" 0 --recipe "$tmp/own.recipe"
	done
} | tee "$out.part"
mv "$out.part" "$out"
