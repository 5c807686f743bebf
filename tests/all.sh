#!/usr/bin/env bash
# Every test, on a fresh machine too. Real models and texts are read from ../shared/data where it exists;
# where it does not, the tests that need it say SKIP and are counted.
set -euo pipefail
. "$(dirname "$0")/../eval/setup.sh"
whit_packages clang llvm libclang-rt-14-dev 2>/dev/null || whit_packages clang llvm

echo "== sanitizers (clang, address + undefined): parsers, formats, containers, fuzz targets"
whit_build out/asan asan clang all >"$root/out.log" 2>&1 || { cat "$root/out.log"; exit 1; }
ctest --test-dir "$root/out/asan" -j "$(nproc)" --output-on-failure -LE slow

echo "== threads (gcc, thread sanitizer)"
whit_build out/tsan tsan gcc test_base >"$root/out.log" 2>&1 || { cat "$root/out.log"; exit 1; }
ctest --test-dir "$root/out/tsan" --output-on-failure -R '^base$'

echo "== release (gcc)"
whit_build out/release release gcc all >"$root/out.log" 2>&1 || { cat "$root/out.log"; exit 1; }
rm -f "$root/out.log"
ctest --test-dir "$root/out/release" -j "$(nproc)" --output-on-failure
