#!/usr/bin/env bash
# On a machine with a CUDA GPU: the tests marked gpu, then float, simulated, int8 and compiled engines and learning on
# random SAM-B and SAM-H, as one table in benchmarks/results/gpu.csv. Meant to take less than eight minutes after
# installation. `tools/gpu_check.sh nano cpu` runs the same steps on the shipped model without a GPU, to try them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
size="${1:-b h}"
device="${2:-cuda}"
out="${OUT:-benchmarks/results}"
if [ "$device" = cuda ]; then
  "$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch sees no CUDA GPU")'
fi
"$python" -c 'import saqsam' 2>/dev/null || "$python" -m pip install --quiet --editable '.[dev]'
"$python" -m pytest tests/gpu -m gpu --tb=short
# shellcheck disable=SC2086
"$python" benchmarks/gpu.py --size $size --device "$device" --out "$out/gpu.csv"
