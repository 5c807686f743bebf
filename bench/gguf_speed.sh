#!/usr/bin/env bash
# GGUF speed against llama.cpp: the same machine, the same file, one run after the other, two threads.
# usage: gguf_speed.sh LLAMA_BIN WHIT F16_GGUF OUT.md [TYPE...]
# For each type: seconds of llama-quantize and of whit export from the F16 file (whole programs, the faster of two), then
# prefill of 128 and decode of 32 tokens on llama-quantize's file: medians, llama-bench's and whit bench's turns alternating.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
bin=$1 whit=$2 src=$3 out=$4
shift 4
types=${*:-F16 Q8_0 Q4_0 Q4_K_M Q6_K Q2_K Q1_0 Q2_0}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
least() { sort -g | head -1; }
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
over() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
bench() { # FILE: lines "PREFILL DECODE" of each program, three turns
	for _ in 1 2 3; do
		"$bin/llama-bench" -m "$1" -t 2 -p 128 -n 32 -r 2 -o json 2>/dev/null |
			sed -n 's/.*"avg_ts": \([0-9.]*\).*/\1/p' | paste -sd' ' >>"$tmp/llama"
		"$whit" bench --model "$1" --threads 2 |
			sed -n 's/.*prefill \([0-9.]*\) tokens\/s, decode \([0-9.]*\) tokens.*/\1 \2/p' >>"$tmp/whit"
	done
}
column() { awk -v k="$2" '{ print $k }' "$tmp/$1" | median; }

{
	echo "# GGUF speed: whit against llama.cpp, $(basename "$src")"
	echo
	echo "whit $("$whit" --version | cut -d' ' -f2), llama.cpp $("$bin/llama-perplexity" --version 2>&1 | sed -n "s/^version: //p"); $(date +%F); $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), 2 threads."
	echo "$(sed -n 's/^flags.*: //p' /proc/cpuinfo | head -1 | tr ' ' '\n' | grep -E 'avx512|vnni' | paste -sd' ')"
	echo
	echo "Tokens a second, median of three turns of each program; seconds of whole programs, the less of two. The ratio is whit over llama.cpp, so that above 1 is faster."
	echo
	echo "| type | prefill 128: llama | whit | ratio | decode 32: llama | whit | ratio | quantize, s: llama | whit | ratio |"
	echo "|---|---|---|---|---|---|---|---|---|---|"
	for t in $types; do
		for _ in 1 2; do
			s=$(now); "$bin/llama-quantize" "$src" "$tmp/llama.gguf" "$t" 2 >/dev/null 2>&1; since "$s" >>"$tmp/lq"; echo >>"$tmp/lq"
			rm -f "$tmp/whit.gguf"
			s=$(now); "$whit" export "$src" "$tmp/whit.gguf" --type "$t" --threads 2 --quiet >/dev/null 2>&1; since "$s" >>"$tmp/wq"; echo >>"$tmp/wq"
		done
		: >"$tmp/llama"; : >"$tmp/whit"
		bench "$tmp/llama.gguf"
		lq=$(grep . "$tmp/lq" | least) wq=$(grep . "$tmp/wq" | least)
		lp=$(column llama 1 | xargs printf %.1f) ld=$(column llama 2 | xargs printf %.1f) wp=$(column whit 1) wd=$(column whit 2)
		echo "| $t | $lp | $wp | $(over "$wp" "$lp") | $ld | $wd | $(over "$wd" "$ld") | $lq | $wq | $(over "$lq" "$wq") |"
		rm -f "$tmp/lq" "$tmp/wq"
	done
} | tee "$out.part"
mv "$out.part" "$out"
