#!/usr/bin/env bash
# whit sensitivity as a process: interrupted, it goes on where it was and writes the bytes of a run that was not; and on
# a device, the emulated one, it measures what the CPU does.
# usage: sensitivity_cli.sh WHIT DATA SCRATCH
set -u
whit=$1
emulated=$(dirname "$whit")/whit_emulated
scratch=$3/sensitivity-$$
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0 skipped=0
fail() { echo "FAILED: $*"; failed=$((failed + 1)); }
same() { for s in json md svg; do if cmp "$1.$s" "$2.$s"; then ok=$((ok + 1)); else fail "$1.$s and $2.$s"; fi; done; }

# few tokens of the built-in model
common=(sensitivity "$here/models/wiki12M-qwen3" --text "$here/../eval/demo.txt" --ctx 64 --stride 64 --max-tokens 160 --floor-tokens 0)
# measure WHIT BASE OPTIONS...
measure() {
	local program=$1 base=$2
	shift 2
	"$program" "${common[@]}" --out "$base" "$@" >"$scratch/out" 2>"$scratch/err"
}

measure "$whit" "$scratch/whole" --formats tq2,tq4 --by role --device cpu || fail "whole: $(tail -n 1 "$scratch/err")"
"$whit" "${common[@]}" --out "$scratch/int" --formats tq2,tq4 --by role --device cpu >"$scratch/out" 2>"$scratch/err" &
pid=$!
for _ in $(seq 600); do # until something is finished
	grep -q '"kld"' "$scratch/int.journal" 2>/dev/null && break
	kill -0 $pid 2>/dev/null || break
	sleep 0.05
done
kill -INT $pid 2>/dev/null
wait $pid
rc=$?
if [ $rc -eq 130 ]; then
	ok=$((ok + 1))
	for s in json md svg; do [ -e "$scratch/int.$s" ] && fail "int.$s is there after an interruption"; done
	ls "$scratch"/*.partial >/dev/null 2>&1 && fail "a .partial file is left"
	measure "$whit" "$scratch/int" --formats tq2,tq4 --by role --device cpu || fail "second: $(tail -n 1 "$scratch/err")"
	if grep -q "goes on behind" "$scratch/err"; then ok=$((ok + 1)); else fail "it did not go on"; fi
	same "$scratch/whole" "$scratch/int"
elif [ $rc -eq 0 ]; then
	echo "SKIP: finished before the signal"; skipped=$((skipped + 1))
else
	fail "interrupted: exit $rc, need 130"
fi

# Calibrated codes: whole-model loss below the nearest's, a part's loss that of quantize and eval by hand, and what cannot be
# measured is refused.
refused() {
	local code=$1 word=$2 rc
	shift 2
	measure "$whit" "$scratch/no" "$@" --device cpu
	rc=$?
	if [ $rc -eq "$code" ] && grep -qF -- "$word" "$scratch/err"; then ok=$((ok + 1)); else fail "exit $rc, need $code and \"$word\": $*"; fi
}
refused 2 "needs --stats" --formats int3g128:gptq
refused 2 "need gptq or ldlq" --formats int3g128:gptaq
refused 2 "needs --stats" --formats int3g128:nearest --metric guided
head -c 6000 "$here/../eval/setup.sh" >"$scratch/calib.txt"; tail -c 9000 "$here/../README.md" >>"$scratch/calib.txt"
"$whit" calibrate "$here/models/wiki12M-qwen3" --text "$scratch/calib.txt" --len 64 --samples 16 --stats hessian --out "$scratch/stats" --device cpu --quiet >/dev/null 2>&1 || fail "calibrate"
refused 3 "no guided sums" --formats int3g128:gptq --stats "$scratch/stats" --metric guided
measure "$whit" "$scratch/cal" --formats int3g128:nearest,int3g128:gptq --rotation none --by role --stats "$scratch/stats" --device cpu || fail "calibrated: $(tail -n 1 "$scratch/err")"
printf '*.v_proj.weight int3g128 method=gptq\n* keep\n' >"$scratch/v.recipe"
"$whit" quantize "$here/models/wiki12M-qwen3" "$scratch/v" --recipe "$scratch/v.recipe" --stats "$scratch/stats" --device cpu --samples 0 --quiet >/dev/null 2>&1 || fail "quantize v_proj"
"$whit" eval "$scratch/v" --ref "$here/models/wiki12M-qwen3" --text "$here/../eval/demo.txt" --ctx 64 --stride 64 --max-tokens 160 --floor-tokens 0 --device cpu --quiet --json "$scratch/v.json" >/dev/null 2>&1
want=$(sed -n 's/^ *"kld_mean": *\([0-9.e-]*\).*/\1/p' "$scratch/v.json" | head -1)
if [ -n "$want" ] && grep -A12 '"name": "v_proj"' "$scratch/cal.json" | grep -q "$want"; then ok=$((ok + 1)); else fail "v_proj by hand loses $want"; grep -A12 '"name": "v_proj"' "$scratch/cal.json"; fi

# rows of five precisions: the Hessians alone, there being no quantized layers before; then a choice among them by a budget
measure "$whit" "$scratch/vp" --formats bin128:gptq,vp0-0-0-400:fabq-vp,vp:fabq-vp --rotation none --stats "$scratch/stats" --device cpu || fail "vp: $(tail -n 1 "$scratch/err")"
"$whit" quantize "$here/models/wiki12M-qwen3" "$scratch/budget" --bpw 1.9 --sensitivity "$scratch/vp.json" --stats "$scratch/stats" --device cpu --samples 0 --quiet --json "$scratch/budget.json" >/dev/null 2>"$scratch/err" || fail "budget: $(tail -n 1 "$scratch/err")"
if awk '/"bpw_linear"/ { gsub(",", ""); exit !($2 > 1.8 && $2 <= 1.9) }' "$scratch/budget.json" && grep -q vp5-45-200-250 "$scratch/budget/quant_manifest.json"; then ok=$((ok + 1)); else fail "vp by a budget"; fi

# The loss of each part on a device is the CPU's to 1 %: hidden states there differ by sums in another order, about 1e-6
# of themselves, which moves a logit by about 1e-5 and a KLD of .1, a mean over positions, by less than sqrt(2 KLD) 1e-5,
# 5e-5 of itself. A small model, for the emulator takes seconds a pass.
klds() { grep -o '"kld_mean": [^,]*' "$1" | cut -d' ' -f2; }
small=$2/models/stories260K
if [ ! -x "$emulated" ]; then
	echo "SKIP: no whit_emulated in this build"; skipped=$((skipped + 1))
elif [ ! -e "$small" ]; then
	echo "SKIP: $small is absent"; skipped=$((skipped + 1))
else
	common=(sensitivity "$small" --text "$here/../eval/demo.txt" --ctx 32 --stride 32 --max-tokens 108 --floor-tokens 0)
	measure "$whit" "$scratch/cpu" --formats tq3 --by layer --device cpu || fail "cpu: $(tail -n 1 "$scratch/err")"
	measure "$emulated" "$scratch/device" --formats tq3 --by layer --device cuda || fail "device: $(tail -n 1 "$scratch/err")"
	grep -q "device: cuda:0, emulated" "$scratch/err" || fail "not on the device"
	paste <(klds "$scratch/cpu.json") <(klds "$scratch/device.json") >"$scratch/both" # five layers, and all
	if awk '{ n++; d = $1 - $2; if (d < 0) d = -d; if (!($1 > 1e-2 && d <= 1e-2 * $1)) bad = 1 } END { exit !(n == 6 && !bad) }' "$scratch/both"; then
		ok=$((ok + 1))
	else
		fail "losses on the CPU and on the device:"; cat "$scratch/both"
	fi
fi

echo "$ok ok, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
