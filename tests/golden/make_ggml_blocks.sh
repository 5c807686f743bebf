#!/usr/bin/env bash
# Makes ggml_blocks.bin and ggml_errors.txt from a built llama.cpp: make_ggml_blocks.sh SOURCE BUILD
# Made with unslothai/llama.cpp d32676d77426 (2026-08-18).
set -euo pipefail
cd "$(dirname "$0")"
tool=$(mktemp)
trap 'rm -f "$tool"' EXIT
gcc -O2 -I"$1/ggml/include" ggml_blocks.c -o "$tool" -L"$2/bin" -lggml -lggml-base -Wl,-rpath,"$2/bin" -lm
"$tool" decode ggml_blocks.bin
"$tool" encode ../models/wiki12M-qwen3/model.safetensors ggml_errors.txt
