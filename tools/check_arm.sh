#!/usr/bin/env bash
# Compiles the kernels for 64-bit ARM on another machine, and runs tests/native/check_levels.cpp on them under QEMU: on a
# processor with dot products every level against the plain one and 64-bit integers; on one without, the plain level
# alone, which has to be all that is offered. Needs aarch64-linux-gnu-g++ and qemu-aarch64 (on Debian the packages
# g++-aarch64-linux-gnu and qemu-user). Usage: check_arm.sh [SEEDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
sources=src/saqsam/native/csrc
flags="-O2 -g0 -std=c++17 -ffp-contract=off -fno-math-errno -pthread -static -I $sources"
for file in "$sources"/*.cpp tests/native/check_levels.cpp; do
  case "$(basename "$file")" in
    level_neondotprod.cpp) own="-march=armv8.2-a+dotprod" ;;
    *) own="" ;;
  esac
  # shellcheck disable=SC2086
  aarch64-linux-gnu-g++ $flags $own -c "$file" -o "$out/$(basename "$file").o"
done
# shellcheck disable=SC2086
aarch64-linux-gnu-g++ $flags "$out"/*.o -o "$out/check"
for processor in max cortex-a53; do
  printf '%s: ' "$processor"
  qemu-aarch64 -cpu "$processor" "$out/check" "${1:-100}"
done
