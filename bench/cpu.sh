#!/usr/bin/env bash
# Everything that is measured on a CPU, in one run: kernels, a random 506M-parameter qwen3 model (too large
# for any cache) in bf16 and quantized, and the quantizer itself. Leave the machine alone meanwhile.
# usage: bench/cpu.sh BUILD_DIR OUT    writes OUT.json, OUT-models.json and OUT.md
# OpenBLAS picks its own kernels from the processor's name; where it is older than the processor, name them:
# OPENBLAS_CORETYPE=SkylakeX bench/cpu.sh ...
set -euo pipefail
build=$1 out=$2
whit=$build/whit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
tell() { echo "$*" | tee -a "$log"; }

"$build/whit_random_model" "$work/bf16" --params 506000000 --vocab 64000 >/dev/null
tell "## Quantizer: the 506M model, bf16 in, one thread (whole program: read, rotate, encode, write, fsync)"
for f in tq1 tq2 tq3 tq4 tq8 int4g128 int8; do
	method=turboquant
	case $f in int*) method=nearest ;; esac
	"$whit" quantize "$work/bf16" "$work/q" --method $method --format $f --samples 0 --threads 1 --quiet >"$work/print"
	tell "$(printf '%-10s %s' $f "$(sed -n 's/^time *//p' "$work/print")")"
	case $f in tq4 | tq8 | tq2 | int8) mv "$work/q" "$work/$f" ;; *) rm -rf "$work/q" ;; esac
done
tell "largest layer $("$whit" inspect "$work/bf16" | awk '/layers\.0\.|embed_tokens/ {n = $(NF-1); if ($1 ~ /layers/) l += n; else e = n} END {printf "%.1f MB, embedding %.1f MB", l/1e6, e/1e6}')"
tell
tell "## Models: prefill of 128 tokens, decode of 32"
"$whit" bench --model "$work/bf16" --model "$work/tq8" --model "$work/int8" --model "$work/tq4" --model "$work/tq2" \
	--seconds 4 --json "$out-models.json" | tee -a "$log"
"$whit" bench --model "$work/bf16" --model "$work/tq4" --prompt 512 -n 8 --seconds 4 | tee -a "$log"
tell
tell "## Kernels"
"$whit" bench --seconds 1 --json "$out.json" | tee -a "$log"
{
	echo "# CPU, $(date -u +%F), $("$whit" --version)"
	echo
	echo "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, $(sed -n 's/^MemTotal: *//p' /proc/meminfo), load before: $(cut -d' ' -f1-3 /proc/loadavg)."
	echo "Made by \`bench/cpu.sh\`. R = bytes per second over this run's copy roof; C = OpenBLAS sgemm's time over ours at the same shape."
	echo
	sed -e 's/^## /\n## /' "$log" | awk '/^## /{if (open) print "```"; print; print ""; print "```"; open = 1; next} {print} END{if (open) print "```"}'
} >"$out.md.partial"
mv "$out.md.partial" "$out.md"
