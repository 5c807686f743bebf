#!/usr/bin/env bash
# The program as a user meets it: help, exit codes, one clear line for each mistake, nothing half-written.
# usage: cli.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/cli-$$
model=$(cd "$(dirname "$0")" && pwd)/models/wiki12M-qwen3
text=$(cd "$(dirname "$0")" && pwd)/../eval/demo.txt
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0 skipped=0

# expect CODE WORD COMMAND...: exit status CODE, WORD in what it printed, and at most two lines on stderr.
expect() {
	local code=$1 word=$2 rc lines
	shift 2
	"$@" >"$scratch/out" 2>"$scratch/err"
	rc=$?
	lines=$(wc -l <"$scratch/err")
	if [ $rc -ne "$code" ]; then
		echo "FAILED: exit $rc, need $code: $*"; cat "$scratch/err"; failed=$((failed + 1))
	elif ! cat "$scratch/out" "$scratch/err" | grep -qF -- "$word"; then
		echo "FAILED: no \"$word\" in what it says: $*"; cat "$scratch/err"; failed=$((failed + 1))
	elif [ $rc -ne 0 ] && [ "$lines" -gt 2 ]; then
		echo "FAILED: $lines lines of error, need at most 2: $*"; cat "$scratch/err"; failed=$((failed + 1))
	else ok=$((ok + 1)); fi
}
absent() { for f in "$@"; do if [ -e "$f" ]; then echo "FAILED: $f is there"; failed=$((failed + 1)); else ok=$((ok + 1)); fi; done; }

for c in inspect calibrate quantize eval sensitivity ladder generate bench; do
	expect 0 "usage: whit $c" "$whit" $c --help
	expect 0 "usage: whit $c" "$whit" help $c
	expect 2 "unknown option" "$whit" $c --no-such-option
done
expect 2 "quantize" "$whit" quantise
expect 2 "--method" "$whit" quantize a b --metod nearest
expect 0 "exit codes" "$whit" --help
expect 2 "missing" "$whit" eval
expect 2 "need a whole number" "$whit" eval "$model" --text "$text" --ctx many

# inputs that are not what they must be
mkdir -p "$scratch/broken" && cp "$model"/*.json "$scratch/broken/"
expect 3 "model.safetensors" "$whit" inspect "$scratch/broken"
head -c 1000 "$model/model.safetensors" >"$scratch/broken/model.safetensors"
expect 3 "model.safetensors" "$whit" inspect "$scratch/broken"
cp "$model/model.safetensors" "$scratch/broken/"
sed 's/"qwen3"/"gpt9"/' "$model/config.json" >"$scratch/broken/config.json"
expect 3 "gpt9" "$whit" eval "$scratch/broken" --text "$text"
sed 's/"hidden_size": 384/"hidden_size": 512/' "$model/config.json" >"$scratch/broken/config.json"
expect 3 "512" "$whit" eval "$scratch/broken" --text "$text"
sed '/"num_hidden_layers"/d' "$model/config.json" >"$scratch/broken/config.json"
expect 3 "num_hidden_layers" "$whit" eval "$scratch/broken" --text "$text"
expect 3 "$scratch/nothing" "$whit" inspect "$scratch/nothing"

expect 2 "no case" "$whit" bench nosuchcase --seconds 0.01

# texts
: >"$scratch/empty.txt"
expect 3 "empty.txt" "$whit" eval "$model" --text "$scratch/empty.txt"
printf 'a' >"$scratch/tiny.txt"
expect 3 "tiny.txt" "$whit" eval "$model" --text "$scratch/tiny.txt"
expect 3 "absent.txt" "$whit" eval "$model" --text "$scratch/absent.txt"
expect 2 "512" "$whit" eval "$model" --text "$text" --ctx 4096
expect 2 "512" "$whit" generate "$model" --prompt hello -n 4096

# quantize, and what it refuses
expect 2 "tq4" "$whit" quantize "$model" "$scratch/x" --method turboquant --format tq44
expect 2 "need one of: f32; f16; bf16; tqB" "$whit" quantize "$model" "$scratch/x" --format q9_0
expect 2 "nearest" "$whit" quantize "$model" "$scratch/x" --method nearst --format tq4
expect 0 "bits/weight" "$whit" quantize "$model" "$scratch/plan" --method turboquant --format tq4 --plan
absent "$scratch/plan" "$scratch/plan.partial" "$scratch/x" "$scratch/x.partial"
expect 0 "" "$whit" quantize "$model" "$scratch/q" --method turboquant --format tq4 --quiet
expect 2 "exists" "$whit" quantize "$model" "$scratch/q" --method turboquant --format tq4
expect 2 "" "$whit" quantize "$model" "$model" --method turboquant --format tq4 --force
expect 0 "tq4" "$whit" inspect "$scratch/q"
expect 0 "xxh3-128" "$whit" inspect "$scratch/q" --verify
for f in turboquant_weights.safetensors quant_manifest.json eval_summary.json sample_generations.json config.json tokenizer.json; do
	if [ -s "$scratch/q/$f" ]; then ok=$((ok + 1)); else echo "FAILED: $f is absent"; failed=$((failed + 1)); fi
done
# every JSON key a report promises
expect 0 "KLD" "$whit" eval "$scratch/q" --ref "$model" --text "$text" --max-tokens 600 --ctx 128 --stride 64 --floor-tokens 20 --json "$scratch/r.json"
for key in tokens nll ppl ppl_se ppl_ref kld_mean kld_se kld_p50 kld_p90 kld_p99 kld_p999 kld_max kld_rev_mean top1 top5 dp_rms \
	cosine bpw_linear bpw_file bytes seconds tokens_per_s peak_rss; do
	if grep -q "\"$key\": *[^ ]" "$scratch/r.json"; then ok=$((ok + 1)); else echo "FAILED: no $key in the report"; failed=$((failed + 1)); fi
done
# a report is a file: a pipe, a device or a directory is not replaced by one, and that is known before the work
mkfifo "$scratch/pipe"
expect 2 "pipe" "$whit" inspect "$model" --json "$scratch/pipe"
expect 2 "pipe" "$whit" eval "$model" --text "$text" --json "$scratch/pipe"
expect 2 "directory" "$whit" quantize "$model" "$scratch/x" --format tq4 --json "$scratch"
absent "$scratch/x"
if [ -p "$scratch/pipe" ]; then ok=$((ok + 1)); else echo "FAILED: the pipe was replaced"; failed=$((failed + 1)); fi
# a full disk: exit 4, nothing under the final name
if [ "$(id -u)" -eq 0 ] && mkdir -p "$scratch/small" && mount -t tmpfs -o size=2m tmpfs "$scratch/small" 2>/dev/null; then
	expect 4 "" "$whit" quantize "$model" "$scratch/small/q" --method turboquant --format tq4 --quiet
	absent "$scratch/small/q" "$scratch/small/q.partial"
	mount -o remount,ro,size=64m "$scratch/small" # and an output that nobody may write to
	expect 2 "small/q" "$whit" quantize "$model" "$scratch/small/q" --method turboquant --format tq4 --quiet
	umount "$scratch/small"
else
	echo "SKIP: no small file system can be mounted here"; skipped=$((skipped + 1))
fi
# a file size limit stands for a full disk in the middle of a write
(ulimit -f 2000; exec "$whit" quantize "$model" "$scratch/limit" --method turboquant --format tq4 --quiet) >"$scratch/out" 2>"$scratch/err"
rc=$?
if [ $rc -eq 4 ]; then ok=$((ok + 1)); else echo "FAILED: exit $rc with a file size limit, need 4"; cat "$scratch/err"; failed=$((failed + 1)); fi
absent "$scratch/limit" "$scratch/limit.partial"
expect 2 "absent-parent" "$whit" quantize "$model" "$scratch/absent-parent/q" --method turboquant --format tq4 --quiet
# Ctrl-C in the middle: 130, nothing under the final name
"$whit" quantize "$model" "$scratch/int" --method turboquant --format tq8 --rotation haar_qr --quiet >"$scratch/out" 2>"$scratch/err" &
pid=$!
sleep 0.15
kill -INT $pid 2>/dev/null
wait $pid
rc=$?
if [ $rc -eq 130 ]; then
	ok=$((ok + 1))
	absent "$scratch/int" "$scratch/int.partial"
elif [ $rc -eq 0 ]; then
	echo "SKIP: finished before the signal"; skipped=$((skipped + 1))
else
	echo "FAILED: exit $rc after SIGINT, need 130"; cat "$scratch/err"; failed=$((failed + 1))
fi
# what a killed writer left is not carried into the output; what is not ours is not touched
mkdir "$scratch/left.partial"
touch "$scratch/left.partial/.lock" "$scratch/left.partial/turboquant_weights.safetensors.1.partial"
expect 0 "" "$whit" quantize "$model" "$scratch/left" --format tq4 --quiet --samples 0
absent "$scratch/left.partial" "$scratch/left/turboquant_weights.safetensors.1.partial" "$scratch/left/.lock"
mkdir "$scratch/left.old.partial" && touch "$scratch/left.old.partial/config.json"
expect 0 "" "$whit" quantize "$model" "$scratch/left" --format tq2 --quiet --samples 0 --force
absent "$scratch/left.old.partial"
mkdir "$scratch/way.partial" && touch "$scratch/way.partial/thesis.txt"
expect 2 "in the way" "$whit" quantize "$model" "$scratch/way" --format tq4 --quiet --samples 0
absent "$scratch/way"
if [ -e "$scratch/way.partial/thesis.txt" ]; then ok=$((ok + 1)); else echo "FAILED: a foreign file was removed"; failed=$((failed + 1)); fi
expect 2 "OUT is empty" "$whit" quantize "$model" "" --format tq4
# memory does not grow with the number of layers (sanitizers keep freed memory, so not there)
if ldd "$whit" | grep -qE 'lib(a|t)san'; then
	echo "SKIP: memory is not measured under a sanitizer"; skipped=$((skipped + 1))
else
	peak() { # MB that quantizing a random model of $1 parameters takes
		"$(dirname "$whit")/whit_random_model" "$scratch/random" --params "$1" --vocab 1000 --quiet >/dev/null
		"$whit" quantize "$scratch/random" "$scratch/rq" --method turboquant --format tq4 --samples 0 --quiet |
			sed -n 's/.*peak memory \([0-9]*\) MB$/\1/p'
		rm -rf "$scratch/random" "$scratch/rq"
	}
	# three layers may be over before all threads have met one: the most of three runs
	small=$(for _ in 1 2 3; do peak 48000000; done | sort -n | tail -1) large=$(peak 192000000)
	if [ -n "$small" ] && [ "$large" -le $((small + small / 20 + 4)) ]; then ok=$((ok + 1)); else
		echo "FAILED: 3 layers take $small MB, 12 take $large MB"; failed=$((failed + 1)); fi
fi
# calibrate: one line for each mistake, nothing half-written
expect 2 "need a directory" "$whit" calibrate "$model" --text "$text" --stats hessian --out "$scratch/im.gguf"
expect 2 "--out is missing" "$whit" calibrate "$model" --text "$text"
expect 2 "need 1 to the model's 512" "$whit" calibrate "$model" --text "$text" --ctx 1024 --out "$scratch/im.gguf"
expect 3 "tiny.txt: text is" "$whit" calibrate "$model" --text "$text" --text "$scratch/tiny.txt" --out "$scratch/im.gguf" --quiet
expect 2 "absent-parent" "$whit" calibrate "$model" --text "$text" --out "$scratch/absent-parent/im.gguf"
absent "$scratch/im.gguf" "$scratch/im.gguf.partial"
expect 0 "diag of 42 weights, 2 samples of 64 tokens" "$whit" calibrate "$model" --text "$text" --chunks 2 --ctx 64 --out "$scratch/im.gguf" --json "$scratch/im.json" --quiet
if grep -q '"tokens": 128' "$scratch/im.json"; then ok=$((ok + 1)); else echo "FAILED: calibrate --json"; failed=$((failed + 1)); fi
# base logits: another mode, two references, a file about another text
expect 2 "needs --mode chunked" "$whit" eval "$model" --text "$text" --save-logits "$scratch/base.bin"
expect 2 "is given with --ref" "$whit" eval "$model" --text "$text" --mode chunked --ref "$model" --ref-logits "$scratch/base.bin"
expect 0 "perplexity" "$whit" eval "$model" --text "$text" --mode chunked --ctx 64 --save-logits "$scratch/base.bin" --quiet
expect 0 "base logits" "$whit" eval "$model" --text "$text" --mode chunked --ref-logits "$scratch/base.bin" --quiet
sed 's/the/a/' "$text" >"$scratch/other.txt"
expect 6 "base.bin: token" "$whit" eval "$model" --text "$scratch/other.txt" --mode chunked --ref-logits "$scratch/base.bin"
expect 3 "_logits_" "$whit" eval "$model" --text "$text" --mode chunked --ref-logits "$text"
# events are JSON lines, the first says the schema
"$whit" quantize "$model" "$scratch/ev" --method nearest --format int8 --quiet --events "$scratch/events" 2>/dev/null >/dev/null
if head -1 "$scratch/events" | grep -q '"schema"' && grep -q '"end"' "$scratch/events"; then ok=$((ok + 1)); else
	echo "FAILED: events"; failed=$((failed + 1)); fi
# the same prompt and seed give the same text at any thread count
a=$("$whit" generate "$scratch/q" --prompt "The river" -n 12 --temp 0.8 --seed 7 --threads 1 --quiet)
b=$("$whit" generate "$scratch/q" --prompt "The river" -n 12 --temp 0.8 --seed 7 --threads 3 --quiet)
if [ -n "$a" ] && [ "$a" = "$b" ]; then ok=$((ok + 1)); else echo "FAILED: generation depends on threads: $a / $b"; failed=$((failed + 1)); fi

echo "$ok ok, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
