#!/usr/bin/env bash
# whit bench of a model: what the JSON and the table promise, and what is refused; whit_random_model's bytes.
# usage: bench.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/bench-$$
here=$(cd "$(dirname "$0")" && pwd)
model=$here/models/wiki12M-qwen3
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
check() { # what it shows, then a command that must succeed
	if "${@:2}" >/dev/null 2>&1; then ok=$((ok + 1)); else echo "FAILED: $1"; failed=$((failed + 1)); fi
}
refused() { # exit code, word, options of whit bench
	local rc
	"$whit" bench "${@:3}" >"$scratch/out" 2>&1
	rc=$?
	if [ $rc -eq "$1" ] && grep -qF -- "$2" "$scratch/out"; then ok=$((ok + 1)); else
		echo "FAILED: exit $rc, need $1 and \"$2\": bench ${*:3}"; cat "$scratch/out"; failed=$((failed + 1)); fi
}

refused 2 'need a positive whole number' --device cpu --model "$model" --prompt 12x
refused 2 'need a positive whole number' --device cpu --model "$model" --prompt 0
refused 2 'need f32 or f16' --device cpu --model "$model" --kv f8
refused 2 "exceed the model's context 512" --device cpu --model "$model" --prompt 500 --seconds 0.01

# Products on a device: all have a time, which a wrong one has not, and a word that no case has is refused.
emulated=${whit}_emulated
if [ -x "$emulated" ]; then
	"$emulated" bench --device cuda "M=2" --seconds 0.001 >"$scratch/out" 2>&1 || failed=$((failed + 1))
	check "products do not all have a time" test "$(grep -cE '^product .* M=2 +[0-9.]+ (us|ms) ' "$scratch/out")" = 20
	check "a product is wrong" awk '/WRONG/ { exit 1 }' "$scratch/out"
	"$emulated" bench --device cuda n=64 q8_0 sums gram columns --seconds 0.001 >"$scratch/out" 2>&1 || failed=$((failed + 1))
	check "what quantizing is made of does not all have a time" test "$(grep -cE '^(fwht|encode|decode|kmeans|gram|square|columns) .* [0-9.]+ (us|ms) ' "$scratch/out")" = 8
	check "one of them is wrong" awk '/WRONG/ { exit 1 }' "$scratch/out"
	check "a word of no case is taken" grep -q "no case's name holds" <("$emulated" bench --device cuda tq5 --seconds 0.001 2>&1)
else
	echo "SKIP: bench: no $emulated"
fi

# Two runs side by side: the same file is noise, a file of other times is told, no run and no case are errors.
"$whit" bench --device cpu "fwht f32 n=64" --seconds 0.001 --json "$scratch/a.json" >/dev/null 2>&1
sed 's/"\(seconds\|p10\|p90\)": [0-9.e-]*/"\1": 1000.0/' "$scratch/a.json" >"$scratch/slow.json"
"$whit" bench --compare "$scratch/a.json" "$scratch/a.json" >"$scratch/out" 2>&1
check "a run is not its own noise" grep -qE '^fwht f32 n=64 .* 1.000x +1.000x  noise$' "$scratch/out"
"$whit" bench --compare "$scratch/a.json" "$scratch/slow.json" >"$scratch/out" 2>&1
check "a thousand seconds are not slower" grep -q '  slower$' "$scratch/out"
echo '{}' >"$scratch/none.json"
echo '{"rows": []}' >"$scratch/empty.json"
refused 2 'has 1 files, need 2' --compare "$scratch/a.json"
refused 3 'has no rows' --compare "$scratch/a.json" "$scratch/none.json"
refused 2 'no case in common' --compare "$scratch/a.json" "$scratch/empty.json"

# A picture: one circle a case of a known run, and one a kind; what is no run is refused and leaves nothing.
run=$(dirname "$0")/../bench/results/2026-11-22-cpu-xeon-2c.json
"$whit" bench --roofline "$run" "$scratch/r.svg" >"$scratch/out" 2>&1
check "the picture does not have 36 cases and 9 kinds" test "$(grep -o '<circle' "$scratch/r.svg" | wc -l)" = 45
check "the roof is missing" grep -q 'copy 24.46 GB/s' "$scratch/r.svg"
check "the picture does not end" test "$(tail -n 1 "$scratch/r.svg")" = "</svg>"
refused 2 'has 1 names' --roofline "$run"
refused 3 'has 0 cases' --roofline "$scratch/empty.json" "$scratch/no.svg"
refused 3 'has 0 cases' --roofline "$scratch/none.json" "$scratch/no.svg"
check "a picture of nothing was drawn" test ! -e "$scratch/no.svg"

# Two prompts, told shortest first; every key, and no number where none was measured.
json=$scratch/b.json
"$whit" bench --device cpu --model "$model" --prompt 24 --prompt 8 -n 5 --seconds 0.01 --json "$json" >"$scratch/table" 2>"$scratch/err" ||
	{ echo "FAILED: bench --model"; cat "$scratch/err"; failed=$((failed + 1)); }
"$whit" bench --roofline "$json" "$scratch/today.svg" >"$scratch/out" 2>&1
check "a run of today has no roof" grep -q '>copy [0-9.]* GB/s<' "$scratch/today.svg"
for key in format_version program date device cpu cuda vector_level openblas compiler threads llc_bytes roofs roofs_end copy_bytes_per_s \
	read_bytes_per_s upload_bytes_per_s sync_seconds drift_share drift rows models model arch parameters active_weights file_bytes compute \
	greedy streams prompt n prefill decode first_token first_token_cold_seconds seconds p10 p50 p90 p99 mean samples tokens_per_s memory \
	kv_bytes host_peak_bytes device_weight_bytes device_bytes device_peak_bytes per_token weight_bytes bytes_per_s copy_share \
	bound_seconds times_bound; do
	check "the JSON has no $key" grep -qE "\"$key\": *[^ ]" "$json"
done
check "format_version is not 2" grep -q '"format_version": 2,' "$json"
check "the date is not UTC" grep -qE '"date": "20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z"' "$json"
check "a CPU's roofs have an upload" grep -q '"upload_bytes_per_s": null' "$json"
check "a CPU is a CUDA device" grep -q '"cuda": null' "$json"
# Two objects, prompts 8 and 24; decode has 5 samples; keys and values of a step are those of its mean position:
# state of 8 + 5 tokens is 6 layers x 2 x 1 kv head x 32 x 4 bytes each, of which (8 + 3) / 13 are read.
check "prompts are not 8 and 24" test "$(sed -n 's/^ *"prompt": \([0-9]*\),/\1/p' "$json" | tr '\n' ' ')" = "8 24 "
check "decode is not 5 samples" test "$(grep -c '"samples": 5,' "$json")" -ge 4
state=$(sed -n '/"memory"/,/}/s/^ *"kv_bytes": \([0-9]*\),/\1/p' "$json" | head -1)
read=$(sed -n '/"per_token"/,/}/s/^ *"kv_bytes": \([0-9.]*\),/\1/p' "$json" | head -1)
check "a step reads $read of a state of $state" awk -v s="$state" -v r="$read" 'BEGIN { exit !(s > 0 && r * 13 == s * 11) }'
weights=$(sed -n 's/^ *"active_weights": \([0-9]*\),/\1/p' "$json" | head -1)
bytes=$(sed -n 's/^ *"weight_bytes": \([0-9]*\),/\1/p' "$json" | head -1)
check "$weights bf16 weights are $bytes bytes" test "$bytes" -eq $((2 * weights))
# Percentiles in order, and rates that are what the seconds say.
check "percentiles are out of order" awk '
	/"models"/ { on = 1 } !on { next } /"p10"/ { a = $2 + 0 } /"p50"/ { b = $2 + 0 } /"p90"/ { c = $2 + 0 }
	/"p99"/ { d = $2 + 0; n++; if (!(a > 0 && a <= b && b <= c && c <= d)) bad = 1 } END { exit bad || n != 6 }' "$json"
check "tokens/s of prefill are not prompt over p50" awk '
	/"prompt"/ { p = $2 + 0 } /"prefill"/ { on = 1 } /"p50"/ { s = $2 + 0 }
	/"tokens_per_s"/ && on { n++; on = 0; if (!(($2 * s / p - 1) ^ 2 < 1e-12)) bad = 1 } END { exit bad || n != 2 }' "$json"
for word in roofs: "prefill 8 " "decode behind 24" tokens/s "first token" memory bound "copy roof at the end"; do
	check "the table has no \"$word\"" grep -qF "$word" "$scratch/table"
done

# Random models: same seed, same bytes at any number of threads; another seed, others; no zeros, no repeats.
random=$(dirname "$whit")/whit_random_model
small=(--params 3000000 --vocab 1001 --quiet)
"$random" "$scratch/r1" "${small[@]}" --threads 1 >/dev/null && "$random" "$scratch/r3" "${small[@]}" --threads 3 >/dev/null &&
	"$random" "$scratch/s2" "${small[@]}" --seed 2 >/dev/null
check "bytes depend on threads" cmp "$scratch/r1/model.safetensors" "$scratch/r3/model.safetensors"
check "bytes do not depend on the seed" test -s "$scratch/s2/model.safetensors" -a "$(cmp -s "$scratch/r1/model.safetensors" "$scratch/s2/model.safetensors"; echo $?)" = 1
check "a random model compresses" test "$(head -c 1000000 "$scratch/r1/model.safetensors" | gzip | wc -c)" -gt 600000
check "a random model runs, by the likeliest token" "$whit" bench --device cpu --model "$scratch/r1" --prompt 3 -n 2 --greedy --seconds 0.01
"$random" "$scratch/d1" --shape qwen3.5-0.8b "${small[@]}" >/dev/null
check "a random delta net runs" "$whit" bench --device cpu --model "$scratch/d1" --prompt 3 -n 2 --greedy --seconds 0.01
"$random" "$scratch/x" --shape qwen3-9b >"$scratch/out" 2>&1
check "an unknown shape" grep -q 'qwen3-9b, need one of: qwen3-0.6b, qwen3-4b' "$scratch/out"

echo "$ok ok, $failed failed"
[ $failed -eq 0 ]
