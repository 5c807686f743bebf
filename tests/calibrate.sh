#!/usr/bin/env bash
# whit calibrate as a user meets it: directories, resuming after an interrupt and after kill -9, merging, domains, texts
# that must be apart, and what is refused.
# usage: calibrate.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/calibrate-$$
here=$(cd "$(dirname "$0")" && pwd)
model=$here/models/wiki12M-qwen3
text=$here/../eval/demo.txt
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0 skipped=0
check() { if "$@"; then ok=$((ok + 1)); else echo "FAILED: $*"; failed=$((failed + 1)); fi; }
# expect CODE WORD COMMAND...
expect() {
	local code=$1 word=$2 rc
	shift 2
	"$@" >"$scratch/log" 2>&1
	rc=$?
	if [ $rc -ne "$code" ] || ! grep -qF -- "$word" "$scratch/log"; then
		echo "FAILED: exit $rc, need $code and \"$word\": $*"; cat "$scratch/log"; failed=$((failed + 1))
	else ok=$((ok + 1)); fi
}
# What must not change the bytes: how much is held between layers, and threads.
run() { "$whit" calibrate "$model" --text "$text" --stats "$1" --len 64 --samples 6 --quiet --device cpu "${@:2}"; }

all=diag,size,hessian,fisher,fisher-full,gradsq,guided
expect 0 "of 42 weights, 6 samples of 64 tokens" run $all --out "$scratch/whole"
expect 0 "loss" run $all --out "$scratch/parts" --ram 300K --threads 1
check diff -r "$scratch/whole" "$scratch/parts"

# interrupted at any moment and gone on with: the same bytes
for signal in INT KILL; do
	out=$scratch/cut-$signal
	for ms in 150 300 450 600 750 900; do
		[ -e "$out" ] && break
		"$whit" calibrate "$model" --text "$text" --stats $all --len 64 --samples 6 --quiet --device cpu --ram 300K \
			--out "$out" >/dev/null 2>&1 &
		sleep 0.$ms
		kill -s $signal $! 2>/dev/null
		wait $! 2>/dev/null # whoever kills without waiting finds its lock
	done
	[ -e "$out" ] || expect 0 "wrote" run $all --out "$out"
	check diff -r "$scratch/whole" "$out"
	check test ! -e "$out.partial"
done
mkdir "$scratch/left.partial" && cp "$scratch/whole/layer-00000.safetensors" "$scratch/left.partial/" && : >"$scratch/left.partial/.lock"
printf '{"stats": ["diag"]}' >"$scratch/left.partial/job.json"
expect 6 'stats is ["diag"]' run hessian --out "$scratch/left"
check test -e "$scratch/left.partial/job.json"

# domains, and two directories added up
head -c 4000 "$text" >"$scratch/a.txt"
tail -c 4000 "$text" >"$scratch/b.txt"
some() { "$whit" calibrate "$model" --stats diag,fisher --len 64 --quiet --device cpu "$@"; }
expect 0 "loss          one" some --domains one="$scratch/a.txt" --domains two="$scratch/b.txt" --out "$scratch/both"
expect 0 "" some --domains one="$scratch/a.txt" --out "$scratch/one"
expect 0 "" some --domains two="$scratch/b.txt" --out "$scratch/two"
expect 0 "together" "$whit" calibrate --merge "$scratch/one" --merge "$scratch/two" --out "$scratch/sum"
# both domains' sums are the same whoever made them; counts of chunks and the texts' hash are about all of them
strip() { tail -c +"$(($(od -An -tu8 -N8 "$1") + 9))" "$1"; }
check cmp <(strip "$scratch/both/layer-00003.safetensors") <(strip "$scratch/sum/layer-00003.safetensors")
check grep -q '"spearman"' "$scratch/sum/statistics.json"
check cmp <(sed -n '/"agreement"/,$p' "$scratch/sum/statistics.json") <(sed -n '/"agreement"/,$p' "$scratch/both/statistics.json")
expect 2 "would count twice" "$whit" calibrate --merge "$scratch/one" --merge "$scratch/both" --out "$scratch/x"
expect 0 "" some --domains two="$scratch/b.txt" --estimator token --out "$scratch/token"
expect 6 'estimator is "token", need "seq"' "$whit" calibrate --merge "$scratch/one" --merge "$scratch/token" --out "$scratch/x"
expect 6 "stats is" "$whit" calibrate --merge "$scratch/one" --merge "$scratch/whole" --out "$scratch/x"
expect 2 "two directories" "$whit" calibrate --merge "$scratch/one" --out "$scratch/x"
expect 0 "" some --domains one="$scratch/a.txt" --estimator sampled --out "$scratch/s1"
expect 0 "" some --domains one="$scratch/a.txt" --estimator sampled --out "$scratch/s2" --threads 1
check diff -r "$scratch/s1" "$scratch/s2"
expect 0 "" some --domains one="$scratch/a.txt" --estimator sampled --seed 2 --out "$scratch/s3"
check test -n "$(diff -rq "$scratch/s1/layer-00000.safetensors" "$scratch/s3/layer-00000.safetensors")"

# the cross term of a model with itself is its Hessian, up to the order of sums; with another model it is not
expect 0 "" run hessian,cross --against "$model" --out "$scratch/cross"
expect 2 "need both or neither" run cross --out "$scratch/x"

# apart
expect 3 "need texts apart" "$whit" eval "$model" --text "$text" --apart "$scratch/whole" --quiet --device cpu
expect 3 "need texts apart" run diag --apart "$text" --out "$scratch/x"
expect 0 "perplexity" "$whit" eval "$model" --text "$scratch/b.txt" --apart "$scratch/one" --ctx 64 --quiet --device cpu

# refused
expect 2 "need some of: diag, size, hessian" run diag,hesian --out "$scratch/x"
expect 2 "need seq, token or sampled" run fisher --estimator batch --out "$scratch/x"
expect 2 "need NAME=FILE" some --domains "$text" --out "$scratch/x"
expect 2 "exists" run diag --out "$scratch/whole"
expect 2 "need a directory" run hessian --out "$scratch/x.gguf"
expect 2 "need 1 to the model's 512" run diag --len 513 --out "$scratch/x"
printf 'few words' >"$scratch/short.txt"
expect 3 "need at least 64" "$whit" calibrate "$model" --text "$scratch/short.txt" --len 64 --out "$scratch/x" --device cpu
check test ! -e "$scratch/x" -a ! -e "$scratch/x.partial" -a ! -e "$scratch/x.gguf"
if [ -w /dev/full ] && mkdir "$scratch/small" && mount -t tmpfs -o size=3m tmpfs "$scratch/small" 2>/dev/null; then
	expect 4 "No space left" run hessian --out "$scratch/small/x"
	check test ! -e "$scratch/small/x"
	umount "$scratch/small"
else
	echo "SKIP: calibrate: no right to mount a small file system"
	skipped=$((skipped + 1))
fi
echo "$ok ok, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
