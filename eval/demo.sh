#!/usr/bin/env bash
# The demonstration: installs what is missing, builds, quantizes the project's own small model to several
# widths, proves by KL divergence what each lost, and lets both continue a sentence.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
mkdir -p "$root/out"
whit_build out/release release "${CC:-gcc}" whit >"$root/out/build.log" 2>&1 || { cat "$root/out/build.log"; exit 1; }
whit=$root/out/release/whit
model=$root/tests/models/wiki12M-qwen3
text=$root/eval/demo.txt
work=$root/out/demo
rm -rf "$work"
mkdir -p "$work"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
exec 3>&1 # commands are shown past any filter of their output
run() {
	local word line="$ whit"
	for word in "${@/#$root\//}"; do case $word in *' '*) line+=" \"$word\"" ;; *) line+=" $word" ;; esac; done
	echo "$line" >&3
	"$whit" "$@"
}
field() { sed -n "s/^ *\"$2\": *\([^,]*\),*$/\1/p" "$1" | head -1; }

say "A real model: Qwen3 architecture, 11.9M parameters, bf16, trained for this project"
run inspect "$model" | tail -n 14

say "Quantize it to 4 bits: Hadamard rotation, Lloyd-Max codes, least-squares scales"
run quantize "$model" "$work/tq4" --method turboquant --format tq4 --quiet | tail -n 9

say "What was lost, on a text it has never seen"
run eval "$work/tq4" --ref "$model" --text "$text" --ctx 128 --stride 64 --quiet --json "$work/tq4.json"

say "The same for other widths and methods"
for item in "turboquant tq8" "turboquant tq3" "turboquant tq2" "turboquant tq1" "nearest int8" "nearest int4g128"; do
	set -- $item
	"$whit" quantize "$model" "$work/$2" --method "$1" --format "$2" --quiet >/dev/null
	"$whit" eval "$work/$2" --ref "$model" --text "$text" --ctx 128 --stride 64 --quiet --json "$work/$2.json" >/dev/null
done
printf '%-10s %11s %11s %11s %11s %12s %9s\n' format "file bytes" "bpw linear" "bpw file" perplexity "mean KLD" "same top"
printf '%-10s %11s %11s %11s %11.4f %12s %9s\n' "bf16" "$(stat -c %s "$model/model.safetensors")" 16 16 "$(field "$work/tq4.json" ppl_ref)" 0 1
for f in tq8 int8 tq4 int4g128 tq3 tq2 tq1; do
	j=$work/$f.json
	printf '%-10s %11s %11.3f %11.3f %11.4f %12.6f %9.4f\n' "$f" "$(field "$j" bytes)" "$(field "$j" bpw_linear)" \
		"$(field "$j" bpw_file)" "$(field "$j" ppl)" "$(field "$j" kld_mean)" "$(field "$j" top1)"
done

say "And it still speaks"
prompt="The river is not long, but it"
for m in "$model" "$work/tq4"; do
	run generate "$m" --prompt "$prompt" -n 40 --temp 0 --quiet
	echo
done
