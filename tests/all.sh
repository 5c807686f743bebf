#!/usr/bin/env bash
# Every test, on a fresh machine too. Real models and texts are read from ../shared/data where it exists;
# where it does not, the tests that need it say SKIP and are counted.
set -euo pipefail
. "$(dirname "$0")/../eval/setup.sh"
whit_packages clang
mkdir -p "$root/out"
log=$root/out/build.log

build() { whit_build "$@" >"$log" 2>&1 || { cat "$log"; exit 1; }; }

echo "== clang: everything compiles without a warning"
build out/clang debug clang all

echo "== address and undefined-behaviour sanitizers"
build out/asan asan gcc all
# shell tests that are minutes long there; what they run is sanitized in cases and in the C tests
ctest --test-dir "$root/out/asan" -j "$(nproc)" --output-on-failure -E '^(device_quantize|bench|calibrate|calibrated_cli|sensitivity_cli|ladder_cli|lora_cli|tune)$'

echo "== thread sanitizer"
build out/tsan tsan gcc test_base whit
ctest --test-dir "$root/out/tsan" --output-on-failure -R '^base$'

echo "== release"
build out/release release gcc all
rc=0
ctest --test-dir "$root/out/release" -j "$(nproc)" --output-on-failure >"$log" || rc=$?
sed '/tests passed/,$d' "$log"
echo "skips, counted by reason:"
grep -h '^SKIP' "$root/out/release/Testing/Temporary/LastTest.log" | sort | uniq -c || echo "      none"
sed -n '/tests passed/,$p' "$log"
exit $rc
