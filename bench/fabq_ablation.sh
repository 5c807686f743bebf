#!/usr/bin/env bash
# FABQ-RC's ablation (fabq.md 7): bash bench/fabq_ablation.sh WHIT MODEL CALIBRATION_TEXT UNSEEN_TEXT OUT
# Fisher information and the importance matrix of the calibration text, then the ladder of bench/fabq_ablation.list;
# OUT.json, OUT.md, OUT.svg. The same command goes on where it was interrupted.
set -euo pipefail
[ $# = 5 ] || { echo "usage: bash bench/fabq_ablation.sh WHIT MODEL CALIBRATION_TEXT UNSEEN_TEXT OUT" >&2; exit 2; }
whit=$1 model=$2 calib=$3 unseen=$4 out=$5
here=$(cd "$(dirname "$0")" && pwd)
samples=(--samples 200 --len 256)
[ -d "$out.fisher" ] || "$whit" calibrate "$model" --text "$calib" --stats fisher "${samples[@]}" --out "$out.fisher" --quiet
[ -f "$out.imatrix.gguf" ] ||
	"$whit" calibrate "$model" --text "$calib" --stats diag "${samples[@]}" --out "$out.imatrix.gguf" --quiet
sed "s|FISHER|$out.fisher|; s|IMATRIX|$out.imatrix.gguf|" "$here/fabq_ablation.list" >"$out.list"
exec "$whit" ladder "$out.list" --model "$model" --text "$unseen" --mode chunked --ctx 256 --max-tokens 25600 \
	--compute float --calib-text "$calib" --calib-samples 200 --calib-len 256 --out "$out"
