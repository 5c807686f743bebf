#!/usr/bin/env bash
# Calibrated quantizing as a user meets it: what it says, what it refuses, directories and GGUF, and formats by a budget.
# usage: calibrated_cli.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/calibrated-$$
here=$(cd "$(dirname "$0")" && pwd)
model=$here/models/wiki12M-qwen3
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
head -c 3000 "$here/../eval/demo.txt" >"$scratch/calib.txt"
tail -c 3000 "$here/../eval/demo.txt" >"$scratch/eval.txt"
fail() { echo "FAILED: $*"; failed=$((failed + 1)); }
# expect CODE WORD COMMAND...
expect() {
	local code=$1 word=$2 rc
	shift 2
	"$@" >"$scratch/log" 2>&1
	rc=$?
	if [ $rc -eq "$code" ] && grep -qF -- "$word" "$scratch/log"; then ok=$((ok + 1)); else fail "exit $rc, need $code and \"$word\": $*"; cat "$scratch/log"; fi
}
quantize() { "$whit" quantize "$model" "$@" --samples 0 --quiet --device cpu; }
text=(--text "$scratch/calib.txt" --calib-len 64 --calib-samples 8)
# last FORMAT: only the last layer, where one shows as much as six
last() { printf '*.layers.5.* %s\n@linear keep\n@embedding keep\n' "$1" >"$scratch/$1.recipe" && echo "$scratch/$1.recipe"; }

expect 2 "needs calibration" quantize "$scratch/x" --format tq4 --method gptq
expect 2 "need one of them" quantize "$scratch/x" --format tq4 --method gptq "${text[@]}" --stats "$scratch"
expect 2 "--damping" quantize "$scratch/x" --format tq4 --method gptq "${text[@]}" --damping -3
expect 2 "--alpha" quantize "$scratch/x" --format tq4 --method gptaq "${text[@]}" --alpha 2
expect 2 "--block-steps" quantize "$scratch/x" --format tq4 --block-steps 5
expect 2 "need both or neither" quantize "$scratch/x" --bpw 3
expect 2 "OUT is a GGUF" quantize "$scratch/x.gguf" --format Q4_0 --rotation hadamard
expect 2 "need one of:" quantize "$scratch/x.gguf" --format tq4
expect 3 "need texts apart" quantize "$scratch/x" --format tq4 --method gptq "${text[@]}" --eval "$scratch/calib.txt" --ctx 64
expect 3 "calib" quantize "$scratch/x" --format tq4 --method gptq --text "$scratch/calib.txt" --calib-len 512 --apart "$scratch/eval.txt" --apart "$scratch/calib.txt"
expect 0 "no method of this plan uses --text" quantize "$scratch/x" --format tq4 "${text[@]}" --plan
[ -e "$scratch/x" ] || [ -e "$scratch/x.gguf" ] && fail "something was written"

# 512 tokens for inputs of 384 and 1152 columns: told of, damped, done
expect 0 "need as many at least" quantize "$scratch/a" --format tq3 --rotation hadamard --method gptq "${text[@]}"
grep -q "of the nearest codes'" "$scratch/log" && ok=$((ok + 1)) || fail "no loss is printed"
expect 0 "reconstructed 6 layers" quantize "$scratch/b" --format tq2 --method gptaq "${text[@]}" --block-steps 2
expect 0 "wrote" quantize "$scratch/q.gguf" --format Q4_0 --method gptq "${text[@]}" --eval "$scratch/eval.txt" --ctx 64
grep -q "KLD (P||Q)" "$scratch/log" && ok=$((ok + 1)) || fail "a GGUF was not measured"
expect 0 "q4_0" "$whit" inspect "$scratch/q.gguf"
expect 2 "exists" quantize "$scratch/q.gguf" --format Q4_0

# scaling: folded, so that at 8 bits hardly anything is lost, in a directory and in a GGUF
expect 2 "need none, awq" quantize "$scratch/x" --format int4g128 --method nearest --scaling aqw "${text[@]}"
expect 2 "needs --text or --stats" quantize "$scratch/x" --format int4g128 --method nearest --scaling awq
for out in s s.gguf; do
	format=int8g128
	[ $out = s.gguf ] && format=Q8_0
	expect 0 "scaled        24 values" quantize "$scratch/$out" --format $format --method nearest --scaling awq "${text[@]}"
	expect 0 "KLD (P||Q)" "$whit" eval "$scratch/$out" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet --compute float
	awk '/^KLD \(P/ { exit !($4 > 0 && $4 < 2e-4) }' "$scratch/log" && ok=$((ok + 1)) || { fail "$out: scaling is no fold"; cat "$scratch/log"; }
done

expect 0 "scaled        24 values" quantize "$scratch/sc.gguf" --format Q3_K --method nearest --scaling awq-clip "${text[@]}"

# Hessians of groups of rows
expect 2 "need hessian, guided" quantize "$scratch/x" --format tq3 --method gptq --metric fish "${text[@]}"
expect 2 "needs --fisher" quantize "$scratch/x" --format tq3 --method gptq --metric fisher "${text[@]}"
expect 2 "--stats or a calibration text" quantize "$scratch/x" --format tq3 --method gptq --metric guided
expect 2 "--groups: is 0" quantize "$scratch/x" --format tq3 --method gptq --metric guided --groups 0 "${text[@]}"
expect 2 "need --groups 1" quantize "$scratch/x" --format frc128 --method fabq-rc --metric guided "${text[@]}"
expect 0 "reconstructed 1 layers" quantize "$scratch/gr" --recipe "$(last tq3)" --method gptaq --metric guided "${text[@]}" --refits 1 --block-steps 2
expect 0 "wrote" quantize "$scratch/gf" --recipe "$(last frc128c20)" --method fabq-rc --metric guided --groups 1 "${text[@]}"
expect 0 "wrote" "$whit" calibrate "$model" --text "$scratch/calib.txt" --len 64 --samples 4 --stats hessian,guided --groups 3 --out "$scratch/stats" --device cpu --quiet
expect 2 "no use for guided" quantize "$scratch/x" --format tq3 --method gptaq --metric guided --stats "$scratch/stats"
expect 0 "of the nearest codes'" quantize "$scratch/g.gguf" --format Q4_0 --method gptq --metric guided --stats "$scratch/stats"
expect 0 "wrote" "$whit" calibrate "$model" --text "$scratch/calib.txt" --len 64 --samples 4 --stats hessian --out "$scratch/plain" --device cpu --quiet
expect 3 "no guided sums" quantize "$scratch/x" --format tq3 --method gptq --metric guided --stats "$scratch/plain"

# FABQ-RC: a record for each linear, all bytes counted; what cannot fill it says so
expect 0 "reconstructed 6 layers" quantize "$scratch/f" --format frc128c20 --method fabq-rc "${text[@]}" --block-steps 2 --json "$scratch/f.json"
awk '/"bpw_linear"/ { gsub(",", ""); exit !($2 > 1.1 && $2 <= 1.22) }' "$scratch/f.json" && ok=$((ok + 1)) || fail "bits per weight are not those of frc128c20"
expect 0 "frc128c20" "$whit" inspect "$scratch/f"
bytes=$(sed -n 's/^ *"file_bytes": *\([0-9]*\).*/\1/p' "$scratch/f.json")
[ "$(cat "$scratch/f"/* | wc -c)" -ge "${bytes:-0}" ] && ok=$((ok + 1)) || fail "files are smaller than their count"
expect 0 "KLD (P||Q)" "$whit" eval "$scratch/f" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet
expect 2 "fabq-rc" quantize "$scratch/x" --format tq2 --method fabq-rc "${text[@]}"
expect 2 "frc128" quantize "$scratch/x" --format frc128 --method gptq "${text[@]}"
expect 2 "need one of:" quantize "$scratch/x.gguf" --format frc128 --method fabq-rc "${text[@]}"
weights=$scratch/f/packed_weights.safetensors
expect 0 "of the nearest codes'" quantize "$scratch/k" --recipe "$(last frc128c20k)" --method fabq-rc "${text[@]}" --force
expect 0 "frc128c20k" "$whit" inspect "$scratch/k"
expect 0 "KLD (P||Q)" "$whit" eval "$scratch/k" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet
book=$scratch/k/packed_weights.safetensors
sed -i 's/frc_codebook.b128.t0/frc_codebook.b128.t1/' "$book"
expect 3 "frc_codebook.b128.t0 is absent" "$whit" inspect "$scratch/k"
printf X | dd of="$weights" bs=1 seek="$(grep -abo FRC1 "$weights" | head -1 | cut -d: -f1)" conv=notrunc 2>/dev/null
expect 3 "need FRC1 version 1" "$whit" inspect "$scratch/f"
sed -i 's/"frc128c20"/"frc128c30"/' "$scratch/f/quant_manifest.json"
expect 3 "need U8 [" "$whit" inspect "$scratch/f"

# every way a record may be, read back as it was written; Fisher information, tiers, a budget of bytes, refits
expect 0 "wrote" "$whit" calibrate "$model" --domains a="$scratch/calib.txt" --domains b="$scratch/eval.txt" --len 64 --samples 4 --stats fisher --out "$scratch/fisher" --device cpu --quiet
# metrics of columns, for nearest codes
expect 0 "wrote" "$whit" calibrate "$model" --text "$scratch/calib.txt" --len 64 --samples 4 --stats diag --out "$scratch/diag" --device cpu --quiet
expect 2 "takes whole Hessians" quantize "$scratch/x" --format tq3 --method gptq --metric fisher --fisher "$scratch/fisher"
for metric in "diag --stats $scratch/diag" "fisher --fisher $scratch/fisher"; do
	for out in "m --format int3g128" "m.gguf --format Q2_0"; do
		rm -rf "$scratch/m" "$scratch/m.gguf"
		expect 0 "42 tensors" quantize "$scratch/"$out --method nearest --metric $metric
		# shellcheck disable=SC2086
	done
	expect 0 "KLD (P||Q)" "$whit" eval "$scratch/m.gguf" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet
done
expect 2 "need gain, fisher" quantize "$scratch/x" --format frc128c20 --method fabq-rc "${text[@]}" --core-by size
expect 2 "--core-by fisher needs --fisher" quantize "$scratch/x" --format frc128c20 --method fabq-rc "${text[@]}" --core-by fisher
expect 2 "--tiers needs --fisher" quantize "$scratch/x" --format frc128k --method fabq-rc "${text[@]}" --tiers
expect 2 "needs --text or --stats" quantize "$scratch/x" --format bin128 --method nearest --fisher "$scratch/fisher"
expect 3 "has no Fisher information" quantize "$scratch/x" --format frc128c20 --method fabq-rc "${text[@]}" --fisher "$scratch/plain"
expect 2 "--refits" quantize "$scratch/x" --format frc128 --method fabq-rc "${text[@]}" --refits -1
expect 2 "--refits: needs --text" quantize "$scratch/x" --format int4g128 --method nearest --refits 1
expect 2 "--refits and --act-order" quantize "$scratch/x" --format int4g128 --method gptq "${text[@]}" --refits 1 --act-order
loss_of() { sed -n 's/.*calibrated *loss \([0-9.e+-]*\),.*/\1/p' "$scratch/log"; }
expect 0 "wrote" quantize "$scratch/all" --recipe "$(last frc128kaut)" --method fabq-rc "${text[@]}" --block-steps 2 --distill-steps 2
expect 0 "frc128kaut" "$whit" inspect "$scratch/all"
expect 0 "KLD (P||Q)" "$whit" eval "$scratch/all" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet
expect 0 "wrote" quantize "$scratch/w" --recipe "$(last frc128w20k)" --method fabq-rc "${text[@]}" --fisher "$scratch/fisher" --core-by fisher --tiers
grep -aq 'frc_codebook.b128.t3' "$scratch/w/packed_weights.safetensors" && ok=$((ok + 1)) || fail "four tiers have no fourth codebook"
expect 0 "frc128w20k" "$whit" inspect "$scratch/w"
expect 0 "losses alone sum to" quantize "$scratch/u" --bpw 1.2 --method fabq-rc "${text[@]}" --fisher "$scratch/fisher" --json "$scratch/u.json"
awk '/"bpw_linear"/ { gsub(",", ""); exit !($2 > 1.19 && $2 <= 1.2) }' "$scratch/u.json" && ok=$((ok + 1)) || fail "records' bits per weight are not just below 1.2"
before=$(loss_of)
printf '%b' "$(sed -n 's/^ *"recipe": "\(.*\)",*$/\1/p' "$scratch/u/quant_manifest.json")" >"$scratch/u.recipe"
expect 0 "wrote" quantize "$scratch/u2" --recipe "$scratch/u.recipe" --method fabq-rc "${text[@]}" --refits 2
after=$(loss_of)
awk "BEGIN { exit !($after < 0.9 * $before) }" && ok=$((ok + 1)) || fail "refits: loss $before, then $after"
expect 2 "need 1" quantize "$scratch/x" --bpw 1.01 --method fabq-rc "${text[@]}" --fisher "$scratch/fisher"

# FABQ-VP: the same of rows of five precisions
expect 0 "reconstructed 6 layers" quantize "$scratch/v" --format vp --method fabq-vp "${text[@]}" --block-steps 2 --json "$scratch/v.json"
awk '/"bpw_linear"/ { gsub(",", ""); exit !($2 > 2.3 && $2 <= 2.4) }' "$scratch/v.json" && ok=$((ok + 1)) || fail "bits per weight are not those of vp"
expect 0 "vp5-45-200-250" "$whit" inspect "$scratch/v"
expect 0 "KLD (P||Q)" "$whit" eval "$scratch/v" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --device cpu --quiet
expect 2 "fabq-vp" quantize "$scratch/x" --format tq2 --method fabq-vp "${text[@]}"
expect 2 "vp5-45-200-250" quantize "$scratch/x" --format vp --method gptq "${text[@]}"
expect 2 "need one of:" quantize "$scratch/x.gguf" --format vp --method fabq-vp "${text[@]}"
expect 0 "of the nearest codes'" quantize "$scratch/v" --format vp0-0-40-330 --method fabq-vp --stats "$scratch/plain" --force
weights=$scratch/v/packed_weights.safetensors
printf 7 | dd of="$weights" bs=1 seek=$(($(grep -abo VPR1 "$weights" | head -1 | cut -d: -f1) + 64)) conv=notrunc 2>/dev/null
expect 3 "need 0 to 4" "$whit" inspect "$scratch/v"

# a signal leaves nothing
"$whit" quantize "$model" "$scratch/cut" --format tq2 --method gptq "${text[@]}" --block-steps 5000 --samples 0 --quiet --device cpu >/dev/null 2>&1 &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
[ $? -eq 143 ] && ok=$((ok + 1)) || fail "a terminated run did not exit with 143"
[ -e "$scratch/cut" ] && fail "a terminated run left its output"

# formats by a budget
expect 0 "" "$whit" sensitivity "$model" --text "$scratch/eval.txt" --ctx 32 --stride 32 --max-tokens 108 --floor-tokens 0 \
	--formats tq2,tq4 --by tensor --out "$scratch/sens" --device cpu --quiet
expect 0 "allocation" quantize "$scratch/budget" --bpw 3 --sensitivity "$scratch/sens.json" --json "$scratch/budget.json"
grep -q '"uniform_loss"' "$scratch/budget.json" && ok=$((ok + 1)) || fail "no uniform choice to compare with"
awk '/"bpw_linear"/ { gsub(",", ""); exit !($2 > 2.8 && $2 <= 3.0) }' "$scratch/budget.json" && ok=$((ok + 1)) || fail "bits per weight are not just below 3"
expect 2 "for the smallest formats" quantize "$scratch/x" --bpw 1.5 --sensitivity "$scratch/sens.json"

echo "$ok ok, $failed failed, 0 skipped"
[ $failed -eq 0 ]
