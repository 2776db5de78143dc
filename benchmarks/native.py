"""The image encoder of a SAM-B on saqsam's own kernels against PyTorch float, level by level: a CSV row each.

    OMP_NUM_THREADS=1 python benchmarks/native.py --out native.csv

PyTorch is held to the same instructions as the kernels (oneDNN and MKL too); ONNX Runtime, which decodes,
cannot be. Rows take turns, each in a process of its own. Weights are random and ranges are set by hand:
processor time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from transformers import SamConfig, SamModel

from saqsam.bench.bench import TUNED
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import ATTENTION, WEIGHT
from saqsam.pack.convert import to_packed
from saqsam.pack.file import write_packed
from saqsam.pack.freeze import round_float_rest
from saqsam.recipe import load_recipe

CAPS = {
    "amx": {},
    "avx512-vnni": {"SAQSAM_NATIVE_LEVEL": "avx512-vnni"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "SAQSAM_NATIVE_LEVEL": "avx2",
    },
}
BITS = ("w4a8", "w4a4", "w8a8")


@torch.no_grad()
def write_random_sams(directory: Path, all_bits: list[str]) -> None:
    """A packed SAM-B with random weights at each width, ``directory/<bits>``."""
    torch.manual_seed(0)
    config = SamConfig()
    config.vision_config.initializer_range = 0.02
    original = SamModel(config).eval().requires_grad_(False)
    for bits in all_bits:
        model, recipe = copy.deepcopy(original), load_recipe(f"rtn-{bits}")
        attach(model, plan_sites(model, recipe))
        for site, quantizer in all_quantizers(model).items():
            if site.role == WEIGHT:
                layer = model.get_submodule(site.path)
                flat = layer.weight.flatten(1)
                quantizer.cover(flat.amin(1), flat.amax(1))
                layer.freeze_weight()
                continue
            low, high = (0.0, 0.01) if site.role == ATTENTION else (-3.0, 3.2)
            quantizer.cover(torch.tensor(low), torch.tensor(high))
            quantizer.freeze()
        round_float_rest(model, recipe.float_dtype)
        write_packed(directory / bits, to_packed(model, recipe, {}))


def measure(row: str, path: Path, images: int, cap: dict[str, str], out: Path) -> dict[str, float]:
    """Figures of one process; of several images the first one only warms up."""
    command = [sys.executable, "-m", "saqsam.bench.measure", row, str(path), str(images), str(out)]
    subprocess.run(command, env={**os.environ, **TUNED, **cap}, check=True)
    found = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    wall, cpu = (median(times[i] for times in found["encoder"][min(1, images - 1) :]) for i in (0, 1))
    return {"encoder_seconds": wall, "encoder_cpu_seconds": cpu, "peak_bytes": found["peak_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", action="append", choices=list(CAPS))
    parser.add_argument("--bits", action="append", choices=BITS)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    chosen = options.bits or list(BITS)
    rows = [("torch float", chosen[0]), *(("native", bits) for bits in chosen)]
    with options.out.open("w", newline="", encoding="utf-8") as file, tempfile.TemporaryDirectory() as name:
        write_random_sams(Path(name), chosen)
        writer: csv.DictWriter[str] | None = None
        for round_ in range(options.rounds):
            for level in options.level or list(CAPS):
                for row, bits in rows:
                    figures = measure(row, Path(name) / bits, options.images, CAPS[level], Path(name) / "out")
                    found = {"level": level, "row": row, "bits": bits, "round": round_, **figures}
                    found["threads"] = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
                    if writer is None:
                        writer = csv.DictWriter(file, fieldnames=list(found))
                        writer.writeheader()
                    writer.writerow(found)
                    file.flush()
                    print(found, flush=True)


if __name__ == "__main__":
    main()
