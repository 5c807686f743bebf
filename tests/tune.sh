#!/usr/bin/env bash
# whit bench --tune on the emulated device: what it writes, who reads it, that each tier runs when told so, and files that
# are none. Exit 77 where the build has no emulated program.
# usage: tune.sh WHIT DATA SCRATCH
set -u
whit=$1_emulated
scratch=$3/tune-$$
model=$(cd "$(dirname "$0")" && pwd)/models/wiki12M-qwen3
golden=$(dirname "$model")/../golden/models/qwen3-bf16
[ -x "$whit" ] || { echo "SKIP: tune: no whit_emulated in this build"; exit 77; }
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
export XDG_CACHE_HOME=$scratch/cache # nobody's own
ok=0 failed=0
check() { # what it shows, then a command that must succeed
	if "${@:2}" >/dev/null 2>&1; then ok=$((ok + 1)); else echo "FAILED: $1"; failed=$((failed + 1)); fi
}
bench() { "$whit" bench --device cuda --seconds 0.001 "$@" >"$scratch/out" 2>"$scratch/err"; }
refused() { # exit code, word, options of whit bench
	bench "${@:3}"
	local rc=$?
	if [ $rc -eq "$1" ] && grep -qF -- "$2" "$scratch/err"; then ok=$((ok + 1)); else
		echo "FAILED: exit $rc, need $1 and \"$2\": bench ${*:3}"; cat "$scratch/err"; failed=$((failed + 1)); fi
}
# A file of one device, [-d NAME], for products "FORMAT ROWS WIDTH TOKENS TIER"
handwritten() {
	local device="emulated on the CPU" comma= f r w t tier
	[ "$1" != -d ] || { device=$2; shift 2; }
	echo '{"format_version": 1, "devices": [{"device": "'"$device"'", "compute_capability": "8.0", "toolkit": "0.0",'
	echo '"whit": "'"$("$whit" --version | cut -d' ' -f2)"'", "terms": 2, "products": ['
	for product in "$@"; do
		read -r f r w t tier <<<"$product"
		echo "$comma"'{"format": "'"$f"'", "rows": '"$r"', "width": '"$w"', "tokens": '"$t"', "tier": "'"$tier"'", "us": {"'"$tier"'": 1.5}}'
		comma=,
	done
	echo ']}]}'
}

# Written, then read; the default place too, whose directories are made; a later run's products join an earlier one's.
F=$scratch/f.json
bench --tune "tq3g128 70x512 M=4" "bf16 70x512 M=16" --tune-file "$F" || { echo "FAILED: bench --tune"; cat "$scratch/err"; failed=$((failed + 1)); }
check "not every tier of two products has a time" test "$(grep -cE '^product .* by (packed|gemv|terms|decoded) +[0-9.]+ (us|ms) ' "$scratch/out")" = 4
check "the file has no two products" test "$(grep -c '"tier": ' "$F")" = 2
for key in '"format_version": 1,' '"device": "emulated on the CPU"' '"compute_capability": "8.0"' '"toolkit": "0.0"' '"whit": "0.' '"terms": 2' \
	'"format": "tq3g128"' '"rows": 70' '"width": 512' '"tokens": 2' '"gemv": ' '"packed": ' '"decoded": '; do
	check "the file has no $key" grep -qF "$key" "$F"
done
tier=$(grep -A5 '"format": "tq3g128"' "$F" | sed -n 's/.*"tier": "\(.*\)",/\1/p')
bench "tq3g128 70x512 M=4" --tune-file "$F" --json "$scratch/b.json"
check "the device is not tuned by two products" grep -q ', 2 tuned products$' "$scratch/err"
check "the JSON has no two tuned products" grep -q '"tuned": 2' "$scratch/b.json"
check "the product does not go by $tier" grep -q "\"tier\": \"$tier\"" "$scratch/b.json"
cp "$F" "$scratch/before.json"
bench --tune --model "$golden" "32x64 M=4" --tune-file "$F"
check "a model's product did not join" test "$(grep -c '"tier": ' "$F")" = 3
check "the shape is not the model's" grep -q '"rows": 32' "$F"
bench --tune "bf16 70x512 M=4"
check "nothing stands in the default place" test -s "$XDG_CACHE_HOME/whit/tune.json"
bench "bf16 70x512 M=4"
check "the default place is not read" grep -q ', 1 tuned products$' "$scratch/err"
bench "bf16 70x512 M=4" --tune-file none
check "none is not nothing" grep -q 'GB free$' "$scratch/err"
bench "bf16 70x512 M=4" --tune-file "$F" --precision fast
check "one term is tuned as two" grep -q 'GB free$' "$scratch/err"

# Each tier in turn: it runs and is right; one that does not take the product leaves it as it was.
forced() { # FORMAT M TOKENS TIER, the one that runs (default: TIER)
	handwritten "$1 70 512 $3 $4" >"$scratch/hand.json"
	check "$1, $2 tokens, told to go by $4: fails" bench "$1 70x512 M=$2" --tune-file "$scratch/hand.json" --json "$scratch/b.json"
	check "$1, $2 tokens, told to go by $4: does not" awk -v c="product $1 70x512 M=$2\"" -v t="\"${5:-$4}\"" \
		'index($0, c) { on = 1 } on && /"tier"/ { exit index($0, t) == 0 } ' "$scratch/b.json"
	check "$1, $2 tokens, by $4: wrong" bash -c "! grep -q WRONG '$scratch/out'"
}
forced bf16 8 5 stream
forced bf16 8 5 gemv
forced bf16 16 9 terms
forced bf16 16 9 decoded
forced tq3g128 4 2 packed
forced tq3g128 4 2 gemv
forced tq3g128 16 9 packed
forced tq3g128 16 9 wide
forced tq3g128 16 9 decoded
forced bf16 8 5 decoded stream
forced tq3g128 16 9 terms packed

# Another device's entries stay, and tune nothing here.
handwritten -d "NVIDIA Moon" "bf16 70 512 5 gemv" >"$F"
bench "bf16 70x512 M=8" --tune-file "$F"
check "another device's products tune this one" grep -q 'GB free$' "$scratch/err"
bench --tune "bf16 70x512 M=8" --tune-file "$F"
check "another device's products are gone" grep -q 'NVIDIA Moon' "$F"
check "this one's are not there" grep -q 'emulated on the CPU' "$F"

# Files that are none: a warning that names file and reason, and the usual tiers; nothing is written over them.
damaged() { # word of the warning; the file is on stdin
	cat >"$F"
	bench "bf16 70x512 M=8" --tune-file "$F" --json "$scratch/b.json"
	check "no run with a damaged file: $1" test $? -eq 0
	check "no warning of \"$1\"" grep -qE "^warning: $F: .*$1.*; nothing is tuned by it$" "$scratch/err"
	check "more than one warning" test "$(grep -c '^warning: ' "$scratch/err")" = 1
	check "tuned by a damaged file: $1" grep -q '"tuned": 0' "$scratch/b.json"
	cp "$F" "$scratch/before.json"
	refused 3 "$1" --tune "bf16 70x512 M=8" --tune-file "$F"
	check "a damaged file was written over" cmp "$F" "$scratch/before.json"
}
good() { handwritten "bf16 70 512 5 gemv"; }
damaged 'is not JSON' </dev/null
damaged 'is not JSON' < <(good | head -c 100)
damaged 'format_version is 2, need 1' < <(good | sed 's/"format_version": 1/"format_version": 2/')
damaged 'devices is absent' <<<'{"format_version": 1}'
damaged 'products is object, need array' <<<'{"format_version": 1, "devices": [{"products": {}}]}'
damaged 'is array where key format_version' <<<'[]'
damaged 'tier is "cubist", need one of: stream packed' < <(good | sed 's/"gemv", "us"/"cubist", "us"/')
damaged 'us is "cubist"' < <(good | sed 's/"gemv": 1.5/"cubist": 1.5/')
damaged 'gemv is -1, need 0' < <(good | sed 's/1\.5/-1/')
damaged 'tokens is 6, need where a range begins' < <(good | sed 's/"tokens": 5/"tokens": 6/')
damaged 'rows is string' < <(good | sed 's/"rows": 70/"rows": "70"/')
damaged 'need 1 to 31 characters' < <(good | sed "s/bf16/$(printf 'x%.0s' {1..32})/")
damaged 'duplicate' < <(good | sed 's/"rows": 70/"rows": 70, "rows": 70/')
damaged 'products 0 and 1 are one: bf16 70x512, tokens 5' < <(handwritten "bf16 70 512 5 gemv" "bf16 70 512 5 stream")
head -c 17000000 /dev/zero >"$F"
bench "bf16 70x512 M=8" --tune-file "$F"
check "a file of 17 MB is read" grep -q '^warning: .* has 17000000 bytes, need at most 16777216' "$scratch/err"
bench "bf16 70x512 M=8" --tune-file "$scratch/none.json"
check "a file that is not there is told of" bash -c "! grep -q warning '$scratch/err'"

# Places that cannot be written are found out before the work; a device is needed, and a place.
refused 2 'none/there' --tune "bf16 70x512 M=8" --tune-file "$scratch/none/there/f.json"
check "it was measured first" bash -c "! grep -q '^product' '$scratch/out'"
refused 3 'need a regular file' --tune "bf16 70x512 M=8" --tune-file "$scratch"
refused 2 'need --tune-file FILE' --tune "bf16 70x512 M=8" --tune-file none
refused 2 'need --device cuda' --tune --device cpu
refused 2 'is the input' "bf16 70x512 M=8" --tune-file "$scratch/hand.json" --json "$scratch/hand.json"
refused 2 "no case's name holds" --tune tq5 --tune-file "$scratch/f5.json"
check "a file of nothing was written" test ! -e "$scratch/f5.json"

# Who reads it: generate and eval. Statistics have the same bytes with it and without.
for t in 1 2 5 9; do
	for s in "384 1152" "1152 384" "128 384" "384 384"; do
		products+=("bf16 $s $t $([ $t -lt 9 ] && echo gemv || echo decoded)")
	done
done
handwritten "${products[@]}" >"$F"
seq 1 400 | tr '\n' ' ' >"$scratch/text"
"$whit" generate "$model" --prompt "a b c" -n 1 --device cuda --tune-file "$F" >"$scratch/out" 2>"$scratch/err"
check "generate is not tuned" grep -q ', 16 tuned products$' "$scratch/err"
"$whit" eval "$model" --text "$scratch/text" --ctx 16 --max-tokens 16 --device cuda --tune-file "$F" >"$scratch/out" 2>"$scratch/err"
check "eval is not tuned" grep -q ', 16 tuned products$' "$scratch/err"
calibrate() { "$whit" calibrate "$model" --text "$scratch/text" --stats hessian --len 12 --samples 1 --threads 1 --device cuda --out "$1" >/dev/null 2>"$scratch/err"; }
calibrate "$scratch/c1"
mkdir -p "$XDG_CACHE_HOME/whit" && cp "$F" "$XDG_CACHE_HOME/whit/tune.json"
calibrate "$scratch/c2"
check "calibrate is tuned" grep -q 'GB free$' "$scratch/err"
check "statistics depend on tuning" cmp "$scratch/c1/layer-00005.safetensors" "$scratch/c2/layer-00005.safetensors"
for command in quantize calibrate sensitivity ladder export; do
	"$whit" $command --tune-file "$F" >"$scratch/out" 2>"$scratch/err"
	check "$command takes --tune-file" grep -q 'unknown option --tune-file' "$scratch/err"
done

echo "$ok ok, $failed failed"
[ $failed -eq 0 ]
