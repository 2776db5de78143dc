#!/usr/bin/env bash
# Compiles the kernels with the address and undefined-behaviour sanitizers, each file for its instructions, and runs
# tests/native/check_levels.cpp on them: every level against the plain one, buffers of exactly their sizes.
# For ARM elsewhere: CXX=aarch64-linux-gnu-g++ RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu" SEEDS=12 make sanitize
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
compiler="${CXX:-g++}"
machine="$("$compiler" -dumpmachine)"
sources=src/saqsam/native/csrc
flags="-std=c++17 -O1 -g -ffp-contract=off -fno-math-errno -pthread -fno-sanitize-recover=all"
flags="$flags -fsanitize=address,undefined -Wno-uninitialized -Wno-maybe-uninitialized -I $sources"
avx512="-mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"
for file in "$sources"/*.cpp tests/native/check_levels.cpp; do
  case "${machine%%-*}-$(basename "$file")" in
    x86_64-level_avx2.cpp) own="-mavx2 -mfma" ;;
    x86_64-level_avxvnni.cpp) own="-mavx2 -mfma -mavxvnni" ;;
    x86_64-level_avx512vnni.cpp) own="$avx512" ;;
    x86_64-level_amx.cpp) own="$avx512 -mamx-tile -mamx-int8" ;;
    aarch64-level_neondotprod.cpp | arm64-level_neondotprod.cpp) own="-march=armv8.2-a+dotprod" ;;
    *) own="" ;;
  esac
  # shellcheck disable=SC2086
  "$compiler" $flags $own -c "$file" -o "$out/$(basename "$file").o"
done
# shellcheck disable=SC2086
"$compiler" $flags "$out"/*.o -o "$out/check"
if [ -n "${RUN:-}" ]; then export ASAN_OPTIONS=detect_leaks=0; fi  # which asks for what QEMU lacks
# shellcheck disable=SC2086
${RUN:-} "$out/check" ${SEEDS:-}
