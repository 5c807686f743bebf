#!/usr/bin/env bash
# quantize and export on a device, the emulated one, write the CPU's bytes: by rotation, group, type, order of rows,
# number of strips. Exit 77 where the build has no emulated program.
# usage: device_quantize.sh WHIT DATA SCRATCH
set -u
whit=$1
export WHIT_EMU_LOCK=1 # no pointer of the device's is read on the host (tests/emu/emu.h)
emulated=$(dirname "$whit")/whit_emulated
scratch=$3/device_quantize-$$
here=$(cd "$(dirname "$0")" && pwd)
golden=$here/golden/models
[ -x "$emulated" ] || { echo "SKIP: device_quantize: no whit_emulated in this build"; exit 77; }
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
ok=0 failed=0
fail() { echo "FAILED: $*"; failed=$((failed + 1)); }

# run COMMAND...: what it printed goes to stdout and stderr of $scratch.
run() { "$@" >"$scratch/stdout" 2>"$scratch/stderr" || { fail "exit $?: $*"; tail -n 2 "$scratch/stderr"; return 1; }; }

# same COMMAND MODEL OPTIONS...: the output's bytes, or those of the files in it that say nothing of how they were made,
# on the device as on the CPU; DEVICE holds options for the device alone.
DEVICE=
same() {
	local command=$1 model=$2 file files
	shift 2
	rm -rf "$scratch/cpu" "$scratch/device"
	run "$whit" "$command" "$model" "$scratch/cpu" "$@" --device cpu --quiet || return
	run "$emulated" "$command" "$model" "$scratch/device" "$@" --device cuda $DEVICE || return
	grep -q "device: cuda:0, emulated" "$scratch/stderr" || { fail "not on the device: $command $model $*"; return; }
	files=$(cd "$scratch" && find cpu -name "*weights.safetensors" -o -name quant_manifest.json -o -name cpu -type f)
	for file in $files; do
		if cmp "$scratch/$file" "$scratch/device${file#cpu}"; then ok=$((ok + 1)); else fail "$command $model $* $DEVICE"; fi
	done
	[ -n "$files" ] || fail "nothing to compare: $command $model $*"
}

for model in qwen3-bf16 llama-f32 llama-tied-linear-f16; do
	for format in tq4 tq2 tq4row tq2row tq3g64; do
		same quantize "$golden/$model" --format $format
	done
done
same quantize "$golden/qwen3-bf16" --format tq4 --scale norm_corrected --density beta --embeddings
same quantize "$golden/qwen3-bf16" --method nearest --format int4g128
same quantize "$golden/llama-f32" --method nearest --format int3g32
printf '*.down_proj.weight f16\n' >"$scratch/narrow" # 56 columns
for model in qwen3-bf16 llama-f32; do # llama's q and k lie in pairs there
	for type in Q8_0 Q4_0 Q4_1; do
		same export "$golden/$model" --type $type --recipe "$scratch/narrow"
	done
done
run "$whit" export "$golden/llama-f32" "$scratch/paired.gguf" --type F16 --device cpu --quiet
same quantize "$scratch/paired.gguf" --format tq4 # from pairs, and back
same export "$scratch/paired.gguf" --type Q5_0 --recipe "$scratch/narrow"
run "$whit" quantize "$golden/llama-f32" "$scratch/rotated" --format tq6 --device cpu --quiet
same export "$scratch/rotated" --type Q4_0 --recipe "$scratch/narrow" # from rotated rows

# Importance of columns.
head -c 20000 "$here/../eval/demo.txt" >"$scratch/text"
printf '*.layers.0.*.k_proj.weight q4_0\n*.layers.0.*.v_proj.weight q5_0\n* f16\n' >"$scratch/weighted"
run "$whit" calibrate "$here/models/wiki12M-qwen3" --text "$scratch/text" --out "$scratch/im.gguf" --device cpu --quiet
same export "$here/models/wiki12M-qwen3" --recipe "$scratch/weighted" --imatrix "$scratch/im.gguf"

# Matrices of many blocks of rows, in one strip and in the smallest ones.
printf '*.layers.0.*.k_proj.weight q4_k\n*.layers.0.*.v_proj.weight q6_k\n@linear f16\n* f16\n' >"$scratch/two.recipe"
printf '*.layers.0.*.k_proj.weight tq4\n*.layers.0.*.v_proj.weight tq3g128 rotation=hadamard\n* keep\n' >"$scratch/two.tq"
run "$(dirname "$whit")/whit_random_model" "$scratch/random" --params 16000000 --vocab 1000 --quiet
for vram in "" "--vram 4M"; do
	DEVICE=$vram
	same export "$scratch/random" --recipe "$scratch/two.recipe"
	same quantize "$scratch/random" --recipe "$scratch/two.tq"
	same quantize "$here/models/wiki12M-qwen3" --recipe "$scratch/two.tq" --samples 0
done
DEVICE=

# A dense rotation adds in another order: the same error to four digits.
error_of() { grep -o "relative MSE [0-9.]*" "$scratch/stdout" | cut -c 1-19; }
run "$whit" quantize "$golden/qwen3-bf16" "$scratch/dense-cpu" --format tq4row --rotation haar_qr --device cpu
cpu=$(error_of)
run "$emulated" quantize "$golden/qwen3-bf16" "$scratch/dense-device" --format tq4row --rotation haar_qr --device cuda
if [ -n "$cpu" ] && [ "$(error_of)" = "$cpu" ]; then ok=$((ok + 1)); else fail "haar_qr: $(error_of), need $cpu"; fi

# Texts run on the device: Hessians are summed there in another order, so that codes may differ where two lie equally near;
# the losses agree to three digits. The factors of these sums are LAPACK's on this device, cuSOLVER's on another one, where
# their last digits are as good a reason (cases: factors).
cp -r "$golden/qwen3-bf16" "$scratch/talks"
cp "$here/models/wiki12M-qwen3"/tokenizer* "$scratch/talks" # letters between digits are tokens of their own, below 96
printf '0a3B7c1d9E2f5G8h4i6J0k2L7m3n9O1p5q8R4s6T0u3v7W2x9Y1z5A8b4C6d0e2F7G' >"$scratch/letters"
calibrated() { # OPTIONS...
	local cpu out=$scratch/texts rc
	for rc in cpu cuda; do
		rm -rf "$out"
		run "$emulated" quantize "$scratch/talks" "$out" "$@" --text "$scratch/letters" --calib-len 8 --calib-samples 8 --samples 0 --device $rc || return
		losses=$(grep -hoE "loss [0-9.]+, [0-9.]+ of|scaled +[0-9]+|relative MSE [0-9.]+" "$scratch/stdout" | sed -E 's/loss ([0-9.]{4})[0-9.]*/loss \1/; s/([0-9.]{5})[0-9.]*/\1/g')
		[ $rc = cpu ] && cpu=$losses
	done
	if [ -n "$cpu" ] && [ "$losses" = "$cpu" ]; then ok=$((ok + 1)); else fail "$*: $losses, need $cpu"; fi
}
printf '*.down_proj.weight keep\n@linear int4g32 method=gptq\n* keep\n' >"$scratch/gptq"
printf '*.down_proj.weight keep\n@linear int3g32 method=gptaq rotation=hadamard\n* keep\n' >"$scratch/gptaq"
calibrated --recipe "$scratch/gptq"
calibrated --recipe "$scratch/gptaq"
calibrated --recipe "$scratch/gptq" --scaling awq
calibrated --method fabq-rc --format frc64c100k
calibrated --method fabq-vp --format vp100-100-200-200
run "$whit" calibrate "$scratch/talks" --text "$scratch/letters" --len 8 --stats hessian --out "$scratch/stats" --device cpu
for vram in "" "--vram 20M"; do # factors too are bytes of the CPU's, on this device
	DEVICE=$vram
	same quantize "$scratch/talks" --recipe "$scratch/gptq" --stats "$scratch/stats" --samples 0
done
DEVICE=
if grep -q "_proj.weight: factors are computed on the host: device memory is" "$scratch/stderr"; then ok=$((ok + 1)); else fail "factors without memory"; cat "$scratch/stderr"; fi
"$emulated" quantize "$scratch/talks" "$scratch/no" --recipe "$scratch/gptq" --text "$scratch/letters" --calib-len 8 --block-steps 1 --samples 0 --device cuda >/dev/null 2>"$scratch/stderr"
if [ $? -eq 0 ] && grep -q "texts run on the CPU" "$scratch/stderr"; then ok=$((ok + 1)); else fail "block steps on a device"; cat "$scratch/stderr"; fi
rm -rf "$scratch/no"

# A weight that is no number: the message is the CPU's; so is that of a norm too large to store.
# poison NAME ROW COLUMN BYTES: writes BYTES (printf's) there, into a copy of llama-f32.
poison() {
	local file=$scratch/poisoned/model.safetensors header at cols
	rm -rf "$scratch/poisoned" && cp -r "$golden/llama-f32" "$scratch/poisoned"
	header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
	at=$(head -c $((8 + header)) "$file" | grep -aoE "\"$1\": *\{[^}]*\}" | grep -oE 'data_offsets": *\[[0-9]+' | grep -oE '[0-9]+$')
	cols=$(head -c $((8 + header)) "$file" | grep -aoE "\"$1\": *\{[^}]*\}" | grep -oE 'shape": *\[[0-9]+, *[0-9]+' | grep -oE '[0-9]+$')
	printf "$4" | dd of="$file" bs=1 seek=$((8 + header + at + 4 * ($2 * cols + $3))) conv=notrunc 2>/dev/null
}
refused() { # CODE WORD: exit code and message of both, the word in it
	local rc
	"$whit" quantize "$scratch/poisoned" "$scratch/no" --format tq4 --device cpu --quiet >/dev/null 2>"$scratch/err.cpu"
	rc=$?
	"$emulated" quantize "$scratch/poisoned" "$scratch/no" --format tq4 --device cuda --quiet >/dev/null 2>"$scratch/err.device"
	if [ $? -ne "$1" ] || [ $rc -ne "$1" ]; then fail "exit code, need $1"; cat "$scratch/err.device"
	elif ! cmp <(grep -v "^warning" "$scratch/err.cpu") <(grep -v "^warning" "$scratch/err.device"); then fail "another message"; cat "$scratch/err.device"
	elif ! grep -q "$2" "$scratch/err.device"; then fail "no \"$2\""; cat "$scratch/err.device"
	elif [ -e "$scratch/no" ]; then fail "wrote all the same"
	else ok=$((ok + 1)); fi
}
poison model.layers.1.mlp.up_proj.weight 5 17 '\377\377\377\377'
refused 5 "up_proj.weight: row 5, column 17: is NaN or Inf"
poison model.layers.0.mlp.down_proj.weight 0 0 '\000\000\200\377'
refused 5 "down_proj.weight: row 0, column 0: is NaN or Inf"
poison model.layers.0.mlp.down_proj.weight 3 1 '\377\377\177\177\377\377\177\177'
refused 5 "down_proj.weight: rows 0 to 31: norm is"

# Too little memory is told before the work, with sizes.
"$emulated" quantize "$golden/qwen3-bf16" "$scratch/no" --format tq4 --device cuda --vram 10K >/dev/null 2>"$scratch/stderr"
if [ $? -eq 4 ] && grep -q "device memory: is 0.010 MB, need" "$scratch/stderr" && [ ! -e "$scratch/no" ]; then
	ok=$((ok + 1))
else
	fail "--vram 10K"; cat "$scratch/stderr"
fi

echo "device_quantize: $ok ok, $failed failed"
[ $failed -eq 0 ]
