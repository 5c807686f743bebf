#!/usr/bin/env bash
# GGUF against the world: the same files and the same text through whit and llama.cpp.
# usage: gguf_world.sh LLAMA_BIN WHIT MODEL_DIR TEXT OUT.md [CHUNKS [TYPE...]]
# For each type, files by llama-quantize and by whit export, with and without an importance matrix: perplexity and KL
# divergence from both programs against one base-logits file. Two comparisons:
#   same file     llama-perplexity and whit eval on the file. llama.cpp's CPU kernels round activations to 8 bits for
#                 most types, so this also measures that rounding.
#   same weights  the file decoded to F32 by llama-quantize, against whit eval --compute float: no rounding on either
#                 side, what remains is the decoding and the evaluation.
# The importance matrix comes from the last quarter of TEXT, the perplexity from its first CHUNKS windows.
# Exit 1 if a comparison of weights, the generation, or a step fails; comparisons of files are counted.
set -uo pipefail
[ $# -ge 5 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
bin=$1 whit=$2 model=$3 text=$4 out=$5 chunks=${6:-20}
shift $(($# < 6 ? 5 : 6))
types=${*:-F16 Q8_0 Q4_0 Q4_K_M Q6_K Q2_K Q1_0 Q2_0}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0 differ=0 rows=()
say() { echo "$*" >&2; }
die() { say "gguf_world: $*"; exit 1; }

context=$(sed -n 's/.*"max_position_embeddings": *\([0-9]*\).*/\1/p' "$model/config.json")
ctx=$((context < 512 ? context : 512))
size=$(stat -c %s "$text")
[ $((chunks * ctx * 8)) -lt $((size / 4 * 3)) ] ||
	die "$text: is $size bytes, need 11 for each of $chunks x $ctx tokens: calibration and evaluation must not overlap"
tail -c $((size / 4)) "$text" >"$tmp/calib.txt"
flags=(-f "$text" -t 2 --chunks "$chunks" -c "$ctx" -ctk f32 -ctv f32 -fa off)
whit_flags=(--text "$text" --mode chunked --ctx "$ctx" --max-tokens $((chunks * ctx)) --threads 2 --quiet)

# ---- what a program said ----
value() { sed -n 's/^  "'"$2"'": \([-0-9.e+]*\),*$/\1/p' "$1" | head -1; } # JSON FILE, KEY of its top level
after() { sed -n 's/.*'"$2"' *[:=] *\([-0-9.e+]*\).*/\1/p' "$1" | tail -1; } # LOG, WORDS
# 1 = |a - b| <= rel * |b|, or abs; NaN and nothing are 0
near() { awk -v a="$1" -v b="$2" -v r="$3" -v z="$4" 'BEGIN { if (a == "" || b == "") exit 1
	a += 0; b += 0; d = a > b ? a - b : b - a; m = r * (b < 0 ? -b : b); if (z > m) m = z; exit !(d <= m) }'; }
percent() { awk -v a="$1" -v b="$2" 'BEGIN { if (a == "" || b == "" || b + 0 == 0) print "-"; else printf "%+.4f %%", 100 * (a / b - 1) }'; }

# On a busy machine llama-perplexity may end, with 0, before its log is written: it is run again until the last line is there.
llama() { # MODEL, LOG, WORD of its last line, options
	local m=$1 log=$2 word=$3 k
	shift 3
	for k in 1 2 3 4 5; do
		"$bin/llama-perplexity" -m "$m" "${flags[@]}" "$@" >"$log" 2>&1 || return 1
		grep -q "$word" "$log" && return 0
		say "llama-perplexity lost its output, again ($k)"
	done
	return 1
}
llama_eval() { llama "$1" "$2" '^Same top p' --kl-divergence-base "${3:-$tmp/base.bin}" --kl-divergence; } # FILE, LOG, BASE
whit_eval() { # FILE, JSON, packed or float
	"$whit" eval "$1" "${whit_flags[@]}" --ref-logits "$tmp/base.bin" --compute "$3" --json "$2" >/dev/null 2>"$2.err" ||
		{ say "whit eval $1: $(cat "$2.err")"; return 1; }
}
warnings() { grep -E '^[0-9.]+ [WE] ' "$1" | sed 's/^[0-9.]* //' | grep -v 'was trained on only'; } # of a log

# ---- F32: the base, and generation ----
say "F32"
"$whit" export "$model" "$tmp/f32.gguf" --type F32 --quiet >/dev/null || die "whit export to F32"
llama "$tmp/f32.gguf" "$tmp/base.log" 'Final estimate' --kl-divergence-base "$tmp/base.bin" ||
	die "llama-perplexity: $(tail -3 "$tmp/base.log")"
"$whit" eval "$model" "${whit_flags[@]}" --save-logits "$tmp/own.bin" --json "$tmp/f32.json" >/dev/null || die "whit eval $model"
base_llama=$(after "$tmp/base.log" 'Final estimate: PPL') base_whit=$(value "$tmp/f32.json" ppl)
near "$base_whit" "$base_llama" 2e-4 0 && f32=pass || { f32=FAIL; failed=$((failed + 1)); }
llama_eval "$tmp/f32.gguf" "$tmp/own.log" "$tmp/own.bin" ||
	die "llama-perplexity on whit's base: $(tail -3 "$tmp/own.log")"
own_kld=$(after "$tmp/own.log" 'Mean  *KLD')
near "$own_kld" 0 0 1e-5 && own=pass || { own=FAIL; failed=$((failed + 1)); }

generated=0 equal=0
while IFS= read -r prompt; do
	a=
	for k in 1 2 3 4 5; do # it loses output as llama-perplexity does: the longest of five counts
		c=$("$bin/llama-completion" -m "$tmp/f32.gguf" -p "$prompt" -n 64 --temp 0 -no-cnv -t 2 -ctk f32 -ctv f32 -fa off \
			-c $((ctx < 256 ? ctx : 256)) --simple-io --no-display-prompt 2>/dev/null </dev/null)
		[ ${#c} -gt ${#a} ] && a=$c
	done
	b=$("$whit" generate "$tmp/f32.gguf" --prompt "$prompt" -n 64 --temp 0 --quiet </dev/null)
	b=${b#"$prompt"}
	generated=$((generated + 1))
	# llama-completion ends with blank lines, and says where it met the end of a text
	a=$(printf '%s' "${a%" [end of text]"}" | sed -e 's/^ *//' -e 's/ *$//') b=$(printf '%s' "$b" | sed -e 's/^ *//' -e 's/ *$//')
	if [ -n "$b" ] && [ "$a" = "$b" ]; then equal=$((equal + 1)); else say "generation differs: llama.cpp '$a'"; say "whit '$b'"; fi
done <<'PROMPTS'
The history of the city begins
Once upon a time, there was a little
In the second half of the season , the team
PROMPTS
[ $equal -eq $generated ] || failed=$((failed + 1))

# ---- importance ----
"$whit" calibrate "$tmp/f32.gguf" --text "$tmp/calib.txt" --ctx "$ctx" --chunks 40 --out "$tmp/im.gguf" --quiet >/dev/null || die "whit calibrate"

# ---- the types ----
declare -A kld
measure() { # TYPE, maker, im (plain or imatrix), FILE
	local t=$1 who=$2 im=$3 file=$4 n="$tmp/$1.$2.$3" lp lk wp wk dp dk fp fk same weights notes
	llama_eval "$file" "$n.log" || { rows+=("| $t | $who | $im | llama.cpp does not load it | | | | | | FAIL | FAIL |"); failed=$((failed + 1)); return; }
	lp=$(after "$n.log" 'Mean PPL(Q)') lk=$(after "$n.log" 'Mean  *KLD')
	whit_eval "$file" "$n.json" packed || { rows+=("| $t | $who | $im | whit does not evaluate it | | | | | | FAIL | FAIL |"); failed=$((failed + 1)); return; }
	wp=$(value "$n.json" ppl) wk=$(value "$n.json" kld_llama_mean)
	"$bin/llama-quantize" --allow-requantize "$file" "$n.f32.gguf" F32 2 >"$n.q.log" 2>&1 && llama_eval "$n.f32.gguf" "$n.f32.log"
	dp=$(after "$n.f32.log" 'Mean PPL(Q)') dk=$(after "$n.f32.log" 'Mean  *KLD')
	whit_eval "$file" "$n.float.json" float
	fp=$(value "$n.float.json" ppl) fk=$(value "$n.float.json" kld_llama_mean)
	rm -f "$n.f32.gguf"
	near "$wp" "$lp" 2e-4 0 && near "$wk" "$lk" .01 1e-5 && same=pass || { same=differs; differ=$((differ + 1)); }
	near "$fp" "$dp" 2e-4 0 && near "$fk" "$dk" .01 1e-5 && weights=pass || { weights=FAIL; failed=$((failed + 1)); }
	notes=$(warnings "$n.log" | sort -u | tr '\n' ';')
	[ -z "$notes" ] || { say "$t $who $im: $notes"; warned="${warned:-}- $t, $who, $im: $notes"$'\n'; }
	kld[$t.$who.$im]=$fk
	rows+=("| $t | $who | $im | $lp | $(percent "$wp" "$lp") | $lk | $(percent "$wk" "$lk") | $(percent "$fp" "$dp") | $(percent "$fk" "$dk") | $same | $weights |")
}
for t in $types; do
	for im in plain imatrix; do
		[ "$t.$im" = F16.imatrix ] && continue
		q=() x=()
		[ $im = imatrix ] && q=(--imatrix "$tmp/im.gguf") x=(--imatrix "$tmp/im.gguf")
		say "$t $im"
		if "$bin/llama-quantize" "${q[@]}" "$tmp/f32.gguf" "$tmp/l.gguf" "$t" 2 >"$tmp/q.log" 2>&1; then
			measure "$t" llama-quantize $im "$tmp/l.gguf"
		else
			rows+=("| $t | llama-quantize | $im | refuses: $(grep -iE 'error|fail|unsupported|cannot' "$tmp/q.log" | tail -1 | tr '|' '/') | | | | | | - | - |")
		fi
		if "$whit" export "$model" "$tmp/w.gguf" --type "$t" "${x[@]}" --force --quiet >/dev/null 2>"$tmp/x.err"; then
			measure "$t" whit $im "$tmp/w.gguf"
		else
			rows+=("| $t | whit | $im | refuses: $(tail -1 "$tmp/x.err" | tr '|' '/') | | | | | | - | - |")
		fi
	done
done

# ---- the table ----
{
	echo "# GGUF: whit against llama.cpp, $(basename "$model")"
	echo
	echo "$("$whit" --version), llama.cpp $("$bin/llama-perplexity" --version 2>&1 | sed -n 's/^version: *//p' | head -1); $(date +%F); $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), 2 threads"
	echo "Text: $(basename "$text"), first $chunks windows of $ctx tokens; importance from its last quarter (\`whit calibrate\`, at most 40 chunks)."
	echo
	echo "- F32 perplexity: llama.cpp $base_llama, whit $base_whit: $f32"
	echo "- base-logits file: llama.cpp reads whit's, mean KLD of the same model $own_kld: $own"
	echo "- greedy generation of 64 tokens in F32: $equal of $generated prompts equal"
	echo
	echo "Differences are whit's figure over llama.cpp's, less 1. Bounds: perplexity 0.02 %, KLD 1 % or 1e-5."
	echo "Same file: as each program runs it (llama.cpp rounds activations to 8 bits). Same weights: decoded to F32 on both sides."
	echo
	echo "| type | by | importance | llama PPL | whit PPL | llama KLD | whit KLD | same weights: PPL | KLD | same file | same weights |"
	echo "|---|---|---|---|---|---|---|---|---|---|---|"
	printf '%s\n' "${rows[@]}"
	echo
	echo "Mean KLD of the weights (whit eval --compute float) against F32:"
	echo
	echo "| type | importance | llama-quantize | whit | whit / llama-quantize |"
	echo "|---|---|---|---|---|"
	for t in $types; do
		for im in plain imatrix; do
			a=${kld[$t.llama-quantize.$im]:-} b=${kld[$t.whit.$im]:-}
			[ -n "$a$b" ] && awk -v t="$t" -v i=$im -v a="$a" -v b="$b" 'BEGIN { printf "| %s | %s | %s | %s | %s |\n", t, i,
				a == "" ? "-" : sprintf("%.6f", a), b == "" ? "-" : sprintf("%.6f", b),
				a == "" || b == "" || a <= 0 ? "-" : sprintf("%.3f", b / a) }'
		done
	done
	echo
	echo "Warnings of llama.cpp while loading: ${warned:-none}"
	echo
	echo "$failed failures; $differ files on which the programs differ beyond the bounds."
} >"$tmp/out.md"
cat "$tmp/out.md"
cp "$tmp/out.md" "$out"
[ $failed -eq 0 ]
