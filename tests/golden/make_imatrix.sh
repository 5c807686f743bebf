#!/usr/bin/env bash
# Makes imatrix/: importance matrices by llama-imatrix of eval/demo.txt: make_imatrix.sh LLAMA_BIN WHIT DATA
# Made with unslothai/llama.cpp d32676d77426 (2026-08-18), F32 models.
set -euo pipefail
bin=$1 whit=$2 data=$3
cd "$(dirname "$0")/../../eval"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
make() { # MODEL CTX CHUNKS OUT
	[ -e "$tmp/$1.gguf" ] || "$whit" export "$data/models/$1" "$tmp/$1.gguf" --type F32 --quiet >/dev/null
	"$bin/llama-imatrix" -m "$tmp/$1.gguf" -f demo.txt -o "../tests/golden/imatrix/$4" --output-format "${4##*.}" \
		-c "$2" --chunks "$3" -t 2 -ctk f32 -ctv f32 -fa off --no-ppl
}
make stories260K 64 3 stories.gguf
make stories260K 64 3 stories.dat
make wiki12M-qwen3 128 4 wiki12M.gguf
