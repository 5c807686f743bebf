#!/usr/bin/env bash
# Adapters of what codes lose, as a user meets them: written beside a GGUF, measured, generated with, refused.
# usage: lora_cli.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/lora-$$
here=$(cd "$(dirname "$0")" && pwd)
model=$here/models/wiki12M-qwen3
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
head -c 6000 "$here/../eval/demo.txt" >"$scratch/calib.txt"
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
text=(--text "$scratch/calib.txt" --calib-len 64)
# kld GGUF [options]: prints the mean KL divergence
kld() { "$whit" eval "$1" --ref "$model" --text "$scratch/eval.txt" --ctx 64 --stride 64 --floor-tokens 0 --device cpu --quiet --compute float "${@:2}" | awk '/^KLD \(P/ { print $4 }'; }
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && a + 0 < b + 0) }'; }

q=(--format Q1_0 --method gptq)
expect 2 "--lora-rank is 0, need 1 or more" quantize "$scratch/x.gguf" "${q[@]}" "${text[@]}" --lora-rank 0
expect 2 "OUT is a directory, need NAME.gguf" quantize "$scratch/x" --format tq4 --method gptq "${text[@]}" --lora-rank 4
expect 2 "needs --text or --stats" quantize "$scratch/x.gguf" --format Q1_0 --lora-rank 4
expect 2 "--lora: needs --lora-rank" quantize "$scratch/x.gguf" "${q[@]}" "${text[@]}" --lora "$scratch/y.gguf"
expect 2 "rank of its residual is 129, need 1 to 128" quantize "$scratch/x.gguf" "${q[@]}" "${text[@]}" --lora-rank 129
expect 2 "need another place" quantize "$scratch/x.gguf" "${q[@]}" "${text[@]}" --lora-rank 4 --lora "$scratch/x.gguf"
expect 0 "" "$whit" calibrate "$model" --text "$scratch/calib.txt" --len 64 --samples 8 --stats diag --out "$scratch/diag" --device cpu --quiet
expect 3 "has no hessian" quantize "$scratch/x.gguf" --format Q1_0 --stats "$scratch/diag" --lora-rank 4
[ -e "$scratch/x.gguf" ] || [ -e "$scratch/x-lora.gguf" ] && fail "something was written"

# bits: 16 * 64 * (rows + columns) / (rows * columns), over all linears
expect 0 "4.2667 bits of their weights" quantize "$scratch/a.gguf" "${q[@]}" "${text[@]}" --lora-rank 64 --eval "$scratch/eval.txt" --ctx 64
grep -q "^adapter .*rank 64" "$scratch/log" && grep -q "^low rank .*after" "$scratch/log" && ok=$((ok + 1)) || fail "the adapter was not told of, or not measured"
expect 0 '"adapter"' "$whit" inspect "$scratch/a-lora.gguf"
without=$(kld "$scratch/a.gguf") with=$(kld "$scratch/a.gguf" --lora "$scratch/a-lora.gguf")
below "$with" "$without" && ok=$((ok + 1)) || fail "KLD is $with with the adapter, $without without"
expect 2 "exists" quantize "$scratch/b.gguf" "${q[@]}" "${text[@]}" --lora-rank 4 --lora "$scratch/a-lora.gguf"
# statistics with Fisher sums weigh rows; scaled columns; the same bytes at any thread count
expect 0 "" "$whit" calibrate "$model" --text "$scratch/calib.txt" --len 64 --samples 8 --stats hessian,fisher --out "$scratch/stats" --device cpu --quiet
expect 0 "low rank" quantize "$scratch/s.gguf" "${q[@]}" --stats "$scratch/stats" --scaling balance --lora-rank 64 --lora "$scratch/own.gguf" --json "$scratch/s.json" --threads 1
grep -q '"fisher": 42' "$scratch/s.json" && ok=$((ok + 1)) || fail "rows were not weighted by Fisher sums"
expect 0 "low rank" quantize "$scratch/t.gguf" "${q[@]}" --stats "$scratch/stats" --scaling balance --lora-rank 64 --threads 3
cmp -s "$scratch/own.gguf" "$scratch/t-lora.gguf" && ok=$((ok + 1)) || fail "the adapter depends on threads"
without=$(kld "$scratch/s.gguf") with=$(kld "$scratch/s.gguf" --lora "$scratch/own.gguf")
below "$with" "$without" && ok=$((ok + 1)) || fail "scaled: KLD is $with with the adapter, $without without"

expect 0 "held as F32" "$whit" generate "$scratch/a.gguf" --lora "$scratch/a-lora.gguf" --prompt "The river" -n 4 --device cpu
expect 3 "need a GGUF" "$whit" generate "$model" --lora "$scratch/a-lora.gguf" --prompt "The river" -n 4 --device cpu
expect 3 "general.type" "$whit" eval "$scratch/a.gguf" --lora "$scratch/s.gguf" --text "$scratch/eval.txt" --ctx 64 --device cpu --quiet
head -c 100000 "$scratch/a-lora.gguf" >"$scratch/cut.gguf"
expect 3 "cut.gguf" "$whit" eval "$scratch/a.gguf" --lora "$scratch/cut.gguf" --text "$scratch/eval.txt" --ctx 64 --device cpu --quiet

echo "$ok ok, $failed failed, 0 skipped"
[ $failed -eq 0 ]
