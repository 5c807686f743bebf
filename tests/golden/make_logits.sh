#!/usr/bin/env bash
# Makes logits/stories.bin, llama-perplexity's base-logits file of eval/demo.txt: make_logits.sh LLAMA_BIN WHIT DATA
# Made with unslothai/llama.cpp d32676d77426 (2026-08-18). It says PPL = 28.6010: see test_logits.c.
set -euo pipefail
bin=$1 whit=$2 data=$3
cd "$(dirname "$0")/../../eval"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$whit" export "$data/models/stories260K" "$tmp/f32.gguf" --type F32 --quiet >/dev/null
"$bin/llama-perplexity" -m "$tmp/f32.gguf" -f demo.txt -c 32 --chunks 7 -t 2 -ctk f32 -ctv f32 -fa off \
	--kl-divergence-base ../tests/golden/logits/stories.bin
