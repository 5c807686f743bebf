#!/usr/bin/env bash
# whit ladder as a process: its numbers are those of whit quantize and whit eval by hand, an interrupted ladder goes on
# and writes the same table, and what is not the same ladder is refused.
# usage: ladder_cli.sh WHIT DATA SCRATCH
set -u
whit=$1
scratch=$3/ladder-$$
here=$(cd "$(dirname "$0")" && pwd)
model=$here/models/wiki12M-qwen3
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
fail() { echo "FAILED: $*"; failed=$((failed + 1)); }
holds() { # WHAT COMMAND...
	local what=$1
	shift
	if "$@"; then ok=$((ok + 1)); else fail "$what"; fi
}
measure=(--text "$here/../eval/demo.txt" --ctx 32 --stride 32 --max-tokens 128 --floor-tokens 31 --device cpu --quiet)
ladder() { "$whit" ladder --model "$model" "${measure[@]}" "$@" >"$scratch/out" 2>"$scratch/err"; }
expect() { # CODE WORD ARGUMENTS...
	local code=$1 word=$2 rc
	shift 2
	ladder "$@"
	rc=$?
	if [ $rc -eq "$code" ] && grep -qF -- "$word" "$scratch/out" "$scratch/err"; then
		ok=$((ok + 1))
	else
		fail "exit $rc, need $code and '$word': ladder $*"; cat "$scratch/err"
	fi
}
numbers() { grep -v seconds "$1.json"; } # all but the time it took

# a directory, a GGUF, a calibrated method whose text is the ladder's, and a recipe file; the second and third have no
# rotation, so that seeds have no part in them
head -c 20000 "$model/README.md" >"$scratch/calibration.txt"
cat >"$scratch/a.list" <<END
# label  options of whit quantize

two    --method turboquant --format tq2
Q4_0   --format Q4_0 --gguf
gptq   --method gptq --format int4g128
END
printf '*.v_proj.weight int8 method=nearest\n@linear tq3\n@embedding keep\n' >"$scratch/mine.recipe"
all=("$scratch/a.list" "$scratch/mine.recipe" --calib-text "$scratch/calibration.txt" --calib-samples 4 --calib-len 32)
expect 0 "wrote" "${all[@]}" --seeds 2 --out "$scratch/l"
holds "six runs" test "$(grep -c '"quantize_seconds"' "$scratch/l.journal")" = 6
holds "nothing but the outputs is left" test "$(cd "$scratch" && echo l.*)" = "l.journal l.json l.md l.svg"
holds "rows of the table" test "$(grep -cE '^\| (\*\*)?(two|Q4_0|gptq|mine)' "$scratch/l.md")" = 4

# by hand; field FILE KEY: the first, or of the ladder's seed 43 the last, number of that name
field() { sed -n "s/^ *\"$2\": *\([^,]*\),*$/\1/p" "$1"; }
by_hand() { # LABEL LINE_OF_JOURNAL OUT OPTIONS...
	local label=$1 nth=$2 out=$3 key
	shift 3
	"$whit" quantize "$model" "$scratch/$out" "$@" --samples 0 --device cpu --quiet >/dev/null 2>"$scratch/err" || fail "$label by hand: $(cat "$scratch/err")"
	"$whit" eval "$scratch/$out" --ref "$model" "${measure[@]}" --json "$scratch/e.json" >/dev/null 2>"$scratch/err" || fail "$label by hand: $(cat "$scratch/err")"
	for key in kld_mean kld_se ppl top1 bytes bpw_file; do
		holds "$key of $label" test "$(field "$scratch/l.journal" $key | sed -n "${nth}p")" = "$(field "$scratch/e.json" $key | head -n 1)"
	done
}
by_hand two,seed43 2 two --method turboquant --format tq2 --seed 43
by_hand Q4_0 3 q.gguf --format Q4_0
by_hand gptq 4 gptq --method gptq --format int4g128 --text "$scratch/calibration.txt" --calib-samples 4 --calib-len 32
by_hand mine 5 mine --recipe "$scratch/mine.recipe"

# the picture: well-formed, a dot for each entry and two in the legend
holds "dots of the picture" test "$(grep -o '<circle' "$scratch/l.svg" | wc -l)" = 6
if command -v python3 >/dev/null; then
	holds "the picture is XML" python3 -c 'import sys, xml.dom.minidom as d; d.parse(sys.argv[1])' "$scratch/l.svg"
fi

# interrupted: a journal that lacks what came last, and one that lacks a run between
cp "$scratch/l.svg" "$scratch/whole.svg"
numbers "$scratch/l" >"$scratch/whole"
if command -v python3 >/dev/null; then
	python3 - "$scratch/l.journal" <<'END'
import json, sys
j = json.load(open(sys.argv[1]))
del j["entries"][2], j["entries"][0]
json.dump(j, open(sys.argv[1], "w"))
END
	ladder "${all[@]}" --seeds 2 --out "$scratch/l" || fail "it does not go on: $(cat "$scratch/err")"
	numbers "$scratch/l" >"$scratch/again"
	holds "the same table after an interruption" cmp "$scratch/whole" "$scratch/again"
	holds "the same picture after an interruption" cmp "$scratch/whole.svg" "$scratch/l.svg"
fi
"$whit" ladder "${all[@]}" --seeds 2 --out "$scratch/int" --model "$model" "${measure[@]}" >"$scratch/out" 2>"$scratch/err" &
pid=$!
for _ in $(seq 600); do # until something is finished
	grep -q '"kld_mean"' "$scratch/int.journal" 2>/dev/null && break
	kill -0 $pid 2>/dev/null || break
	sleep 0.02
done
kill -INT $pid 2>/dev/null
wait $pid
rc=$?
if [ $rc -eq 130 ]; then
	holds "an interrupted ladder leaves its journal alone" test "$(cd "$scratch" && echo int.*)" = int.journal
else
	holds "exit $rc when interrupted, need 130, or 0 when it had finished" test $rc -eq 0
fi
ladder "${all[@]}" --seeds 2 --out "$scratch/int" || fail "second: $(cat "$scratch/err")"
numbers "$scratch/int" >"$scratch/again"
holds "the same table in two runs" cmp "$scratch/whole" "$scratch/again"

# more may be asked for, other things not
expect 6 "max_tokens is 128, need 160" "${all[@]}" --seeds 2 --out "$scratch/l" --max-tokens 160
expect 6 "'gptq' had other inputs: calibration" "${all[@]}" --seeds 2 --out "$scratch/l" --damping 0.1
expect 6 "none of this run's" "${all[@]}" --out "$scratch/l"
expect 6 "none of this run's" "$scratch/mine.recipe" --seeds 2 --out "$scratch/l"
sed 's/tq2/tq1/' "$scratch/a.list" >"$scratch/b.list"
expect 6 "'two' had other inputs: rules" "$scratch/b.list" "${all[@]:1}" --seeds 2 --out "$scratch/l"
echo "more --method nearest --format int8" >"$scratch/c.list"
expect 0 "more" "${all[@]}" "$scratch/c.list" --seeds 2 --out "$scratch/l"

# mistakes name the file and the line
bad() { # WORD LINE
	printf 'fine --format tq4\n\n%s\n' "$2" >"$scratch/bad.list"
	expect 2 "bad.list:3: $1" "$scratch/bad.list" --out "$scratch/x"
}
bad "quantize: unknown option --metod; did you mean --method" "wrong --metod gptq --format int4g128"
bad "quantize: unknown option --json" "wrong --format tq4 --json x.json"
bad "quantize: --format is missing" "wrong --method nearest"
bad "label 'fine' is that of" "fine --format tq3"
bad "'--format' is an option, need a label first" "--format tq3"
bad "quantize: --format: " "wrong --format tq99"
bad "wrong: $model/model.safetensors: tensor" "wrong --method nearest --format tq4g256"
bad "wrong: tensor" "wrong --method gptq --format int4g128"
printf '@linear tq99\n' >"$scratch/bad.recipe"
expect 2 "bad.recipe:1" "$scratch/bad.recipe" --out "$scratch/x"
expect 2 "--seeds is 0" "${all[@]}" --out "$scratch/x" --seeds 0
: >"$scratch/x.md"
expect 2 "exists, without a journal" "${all[@]}" --out "$scratch/x"

echo "$ok ok, $failed failed"
[ $failed -eq 0 ]
