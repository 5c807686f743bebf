#!/usr/bin/env bash
# whit export as a user meets it: plan, result, exit codes, one clear line for each mistake, nothing half-written.
# usage: export_cli.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/export-$$
model=$(cd "$(dirname "$0")" && pwd)/models/wiki12M-qwen3
recipes=$(cd "$(dirname "$0")" && pwd)/../calib/recipes
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
fail() { echo "FAILED: $*"; failed=$((failed + 1)); }
check() { if "$@"; then ok=$((ok + 1)); else fail "$*"; fi; }

# expect CODE WORD COMMAND...: exit status CODE, WORD in what it printed, at most two lines of error.
expect() {
	local code=$1 word=$2 rc
	shift 2
	"$@" >"$scratch/stdout" 2>"$scratch/stderr"
	rc=$?
	if [ $rc -ne "$code" ]; then fail "exit $rc, need $code: $*"; cat "$scratch/stderr"
	elif ! cat "$scratch/stdout" "$scratch/stderr" | grep -qF -- "$word"; then fail "no \"$word\": $*"; cat "$scratch/stderr"
	elif [ "$rc" -ne 0 ] && [ "$(wc -l <"$scratch/stderr")" -gt 2 ]; then fail "more than two lines of error: $*"
	else ok=$((ok + 1)); fi
}
nothing() { for f in "$@"; do if compgen -G "$f*" >/dev/null; then fail "$f is there"; else ok=$((ok + 1)); fi; done; }
out=$scratch/out.gguf

expect 0 "Q4_K_M" "$whit" export --help
expect 2 "--type is missing" "$whit" export "$model" "$out"
expect 2 "need one of: IQ4_NL" "$whit" export "$model" "$out" --type Q9_X
expect 2 "need one of" "$whit" export "$model" "$out" --type tq4
expect 2 "--output-tensor-type" "$whit" export "$model" "$out" --type Q8_0 --output-tensor-type nope
expect 2 "need a type of GGUF" "$whit" export "$model" "$out" --type Q8_0 --token-embedding-type int8
expect 2 "method: is 'magic'" "$whit" export "$model" "$out" --type Q8_0 --method magic
expect 3 "cannot open" "$whit" export "$model" "$out" --type Q8_0 --imatrix "$scratch/none.gguf"
expect 3 "config.json" "$whit" export "$model" "$out" --type Q8_0 --imatrix "$model/config.json"
expect 3 "does not exist" "$whit" export "$scratch/none" "$out" --type Q8_0
expect 2 "inside it" "$whit" export "$model" "$model/x.gguf" --type Q8_0
expect 2 "cannot be made" "$whit" export "$model" /nonexistent/x.gguf --type Q8_0
expect 3 "cannot open" "$whit" export "$model" "$out" --recipe "$scratch/none.recipe"
printf '*.q_proj.weight q8_0 when=never\n* f16\n' >"$scratch/bad.recipe"
expect 2 "bad.recipe:1: when" "$whit" export "$model" "$out" --recipe "$scratch/bad.recipe"
expect 0 "q5_0 nearest: 384 is no multiple of q4_k's block" "$whit" export "$model" "$out" --type q4_k_m --plan --json "$scratch/plan.json"
check grep -q '"asked": "q6_k"' "$scratch/plan.json"
nothing "$out"

# A preset by name is the recipe file of that name; later runs give the same bytes.
expect 0 "fallbacks     43 tensors" "$whit" export "$model" "$out" --type Q4_K_M
expect 0 "wrote" "$whit" export "$model" "$scratch/recipe.gguf" --recipe "$recipes/Q4_K_M.recipe" --threads 1
check cmp <("$whit" inspect "$out" | tail -n +2 | grep -v -e out.gguf -e file_type) <("$whit" inspect "$scratch/recipe.gguf" | tail -n +2 | grep -v -e recipe.gguf -e file_type)
expect 2 "exists" "$whit" export "$model" "$out" --type F16
cp "$out" "$scratch/before"
expect 2 "is the input" "$whit" export "$out" "$out" --type F16 --force
check cmp "$out" "$scratch/before"
# Nor does any other option write over what is read, or two of them to one place.
expect 2 "is the input (MODEL)" "$whit" inspect "$out" --json "$out"
expect 2 "is the input (MODEL)" "$whit" export "$out" "$scratch/x.gguf" --type F16 --events "$out"
expect 2 "is the input (--text)" "$whit" calibrate "$out" --text "$model/config.json" --out "$model/../${model##*/}/config.json"
expect 2 "is an output (--json)" "$whit" export "$out" "$scratch/x.gguf" --type F16 --json "$scratch/x.gguf"
check cmp "$out" "$scratch/before"
nothing "$scratch/x.gguf"
expect 0 "losses add up" "$whit" export "$out" "$scratch/again.gguf" --type Q8_0
expect 0 "wrote" "$whit" export "$model" "$out" --type f16 --force
echo thesis >"$scratch/thesis"
expect 2 "is no GGUF" "$whit" export "$model" "$scratch/thesis" --type F16 --force
check grep -q thesis "$scratch/thesis"
mkdir "$scratch/dir"
expect 2 "is a directory" "$whit" export "$model" "$scratch/dir" --type F16 --force

# Options before recipe before type.
printf '*.down_proj.weight q5_1\n' >"$scratch/my.recipe"
expect 0 "wrote" "$whit" export "$model" "$scratch/mix.gguf" --recipe "$scratch/my.recipe" --type Q4_0 --output-tensor-type bf16
"$whit" inspect "$scratch/mix.gguf" >"$scratch/inspect"
check grep -qiE 'embed_tokens.weight .*BF16' "$scratch/inspect"
check grep -qiE 'layers.0.mlp.down_proj.weight .*Q5_1' "$scratch/inspect"
check grep -qiE 'layers.0.mlp.up_proj.weight .*Q4_0' "$scratch/inspect"

# A full disk, and an interrupt, leave nothing.
(ulimit -f 4000; trap '' XFSZ; "$whit" export "$model" "$scratch/full.gguf" --type F32 >/dev/null 2>"$scratch/stderr")
check test $? -eq 4
check grep -q "disk: is" "$scratch/stderr"
nothing "$scratch/full.gguf"
"$whit" export "$model" "$scratch/int.gguf" --type Q2_K --threads 1 >/dev/null 2>&1 &
pid=$!
for _ in $(seq 400); do compgen -G "$scratch/int.gguf*" >/dev/null && break; sleep 0.005; done
kill -INT $pid 2>/dev/null
wait $pid
rc=$?
if [ $rc -eq 0 ]; then echo "SKIP: the export was faster than the interrupt"; else
	check test $rc -eq 130
	nothing "$scratch/int.gguf"
fi
# Codes that are there already are copied, not chosen again.
expect 0 "relative MSE" "$whit" export "$model" "$scratch/once.gguf" --type Q4_0 --quiet
expect 0 "relative MSE 0" "$whit" export "$scratch/once.gguf" "$scratch/twice.gguf" --type Q4_0 --quiet
check cmp "$scratch/once.gguf" "$scratch/twice.gguf"

echo "$ok ok, $failed failed, 0 skipped"
[ $failed -eq 0 ]
