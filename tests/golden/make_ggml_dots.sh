#!/usr/bin/env bash
# Makes ggml_dots.bin from a built llama.cpp: make_ggml_dots.sh SOURCE BUILD
# Made with unslothai/llama.cpp d32676d77426 (2026-08-18), on x86-64 with AVX-512 VNNI.
set -euo pipefail
cd "$(dirname "$0")"
tool=$(mktemp)
trap 'rm -f "$tool"' EXIT
gcc -O2 -I"$1/ggml/include" ggml_dots.c -o "$tool" -L"$2/bin" -lggml-cpu -lggml -lggml-base -Wl,-rpath,"$2/bin" -lm
"$tool" ggml_dots.bin
