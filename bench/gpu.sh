#!/usr/bin/env bash
# What a GPU does, in one command and one directory to send us: builds whit, makes random models of qwen3's shapes that
# fit the card, quantizes the largest, times each way to multiply, measures prefill and decode of each. Nothing is
# downloaded but the distribution's packages that the build needs. Leave the machine alone meanwhile; 10 to 30 minutes,
# mostly building and writing models.
# usage: bench/gpu.sh [INDEX [options of `whit bench`, e.g. --prompt 4096 --kv f16]]    INDEX: of nvidia-smi -L (default 0)
# Writes out/bench-DEVICE-DATE/bench.json, products.json, tune.json and bench.md. Exit 4: no GPU, no nvcc, or too little disk.
set -euo pipefail
fail() { echo "bench/gpu.sh: $*" >&2; exit 4; }
index=${1:-0}
[ $# -eq 0 ] || shift
[[ $index =~ ^[0-9]+$ ]] || { echo "bench/gpu.sh: INDEX is $index, need a number of nvidia-smi -L" >&2; exit 2; }
export CUDA_DEVICE_ORDER=PCI_BUS_ID # so that numbers are nvidia-smi's

ask() { nvidia-smi -i "$index" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -1; }
command -v nvidia-smi >/dev/null || fail "no GPU here: nvidia-smi, which comes with the driver, is not installed"
name=$(ask name) && [ -n "$name" ] || fail "no GPU number $index here: nvidia-smi finds none"
free=$(ask memory.free)
[[ $free =~ ^[0-9]+$ ]] || fail "nvidia-smi tells no free memory of GPU $index ($name)"
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || fail "no nvcc: install the CUDA toolkit, 12.0 or newer"

. "$(dirname "$0")/../eval/setup.sh"
mkdir -p "$root/out"
log=$root/out/build.log
echo "building whit for $name"
whit_build out/release release gcc whit whit_random_model >"$log" 2>&1 || { tail -30 "$log" >&2; exit 1; }
whit=$root/out/release/whit
out=$root/out/bench-$(tr -cs 'A-Za-z0-9\n' - <<<"$name")-$(date -u +%Y-%m-%dT%H%MZ)
work=$(mktemp -d "$root/out/bench-models.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Shapes, MB of their bf16 weights. One in bf16 is measured where it fits beside 2 GB of the rest; the one to be
# quantized is the largest that fits in 8 bits.
models=() quantize= largest=0
disk=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
while read -r shape mb; do
	[ $((mb * 17 / 32 + 2048)) -le "$free" ] || continue
	if [ $((mb * 9 / 4 + 2048)) -gt "$disk" ]; then echo "$shape: left out, $disk MB of disk are free"; continue; fi
	[ -z "$quantize" ] || [ $((largest + 2048)) -le "$free" ] || rm -rf "${work:?}/$quantize" # too large in bf16
	echo "making $shape, $mb MB"
	"$root/out/release/whit_random_model" "$work/$shape" --shape "$shape" --quiet
	disk=$((disk - mb)) quantize=$shape largest=$mb
	[ $((mb + 2048)) -gt "$free" ] || models+=(--model "$work/$shape")
done <<'END'
qwen3-0.6b 1200
qwen3-4b 8050
qwen3-8b 16400
qwen3-14b 29600
END
[ -n "$quantize" ] || fail "no model fits $free MB of free device memory and $disk MB of free disk"
mkdir -p "$out"
for format in tq4 q4_0 int8; do
	method=nearest
	[ $format = tq4 ] && method=turboquant
	"$whit" quantize "$work/$quantize" "$work/$quantize-$format" --method $method --format $format --samples 0 --quiet \
		--device "cuda:$index" | sed -n "s/^time */quantized $quantize to $format: /p" | tee -a "$out/quantize.log"
	models+=(--model "$work/$quantize-$format")
done

state() { ask clocks.sm,clocks.mem,temperature.gpu,power.draw,power.limit; }
# Models go by what is quickest on this card; the products below by the usual ways, so that runs compare.
echo "timing each way to multiply these models' matrices"
"$whit" bench --tune "${models[@]}" --device "cuda:$index" --seconds 0.05 --tune-file "$out/tune.json" >"$out/tune.log" 2>&1 ||
	{ tail -30 "$out/tune.log" >&2; exit 1; }
rm "$out/tune.log"
before=$(state)
"$whit" bench "${models[@]}" --device "cuda:$index" --tune-file "$out/tune.json" --prompt 128 --prompt 1024 "$@" --json "$out/bench.json" 2>&1 | tee "$out/table"
"$whit" bench --device "cuda:$index" --tune-file none --seconds 0.1 --json "$out/products.json" 2>&1 | tee -a "$out/table"
"$whit" bench --roofline "$out/products.json" "$out/products.svg"
{
	echo "# $name, $(date -u +%F), $("$whit" --version)"
	echo
	echo "Driver $(ask driver_version), compute capability $(ask compute_cap), $(ask memory.total) MB, of which $free were free;"
	echo "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores. PCIe generation $(ask pcie.link.gen.max), x$(ask pcie.link.width.max)."
	echo "MHz of SMs and memory, degrees, watts now and at most: $before before, $(state) after. Made by \`bench/gpu.sh $index $*\`."
	echo "R = bytes per second over this run's copy roof."
	echo
	echo '```'
	cat "$out/quantize.log" "$out/table"
	echo '```'
} >"$out/bench.md"
rm -f "$out/table" "$out/quantize.log"
echo
echo "done; please send us these four files: $out/bench.json, products.json, tune.json and bench.md beside it"
