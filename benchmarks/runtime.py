"""Speed and memory of a SAM-B in integers, against PyTorch and ONNX Runtime: one CSV row for each engine.

    python benchmarks/runtime.py --bits w4a8 --rounds 2 --out runtime-w4a8.csv
    python benchmarks/runtime.py --bits w4a8 --rounds 2 --out runtime-tiny.csv --model tiny

The second does it for a SAM 2.1 of that size.

Weights are random and ranges come from one pass over noise: what is measured is speed and memory, not masks.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from family_sizes import random_sam2
from torch import Tensor
from transformers import SamConfig, SamModel

from saqsam.bench.bench import bench
from saqsam.bench.rows import ROWS
from saqsam.families.registry import decoder_of, encoder_of, sizes_of
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT
from saqsam.pack.convert import to_packed
from saqsam.pack.file import write_packed
from saqsam.pack.freeze import round_float_rest
from saqsam.recipe import load_recipe


class Range:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(0.0), torch.tensor(0.0)

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """See one tensor."""
        del value
        self.low, self.high = torch.minimum(self.low, x.min()), torch.maximum(self.high, x.max())


def random_sam(name: str) -> Any:
    """A SAM-B or a SAM 2.1 with random weights."""
    if name != "sam_b":
        return random_sam2(name)
    torch.manual_seed(0)
    config = SamConfig()
    config.vision_config.initializer_range = 0.02  # 1e-10 otherwise: an encoder of zeros
    return SamModel(config).eval().requires_grad_(False)


@torch.no_grad()
def write_random_sam(path: Path, bits: str, name: str = "sam_b") -> None:
    """A packed model with random weights."""
    model = random_sam(name)
    recipe = load_recipe(f"rtn-{bits}")
    attach(model, plan_sites(model, recipe))
    quantizers = all_quantizers(model)
    ranges = {site: Range() for site in quantizers if site.role != WEIGHT}
    for site, seen in ranges.items():
        quantizers[site].observer = seen
    side = sizes_of(model).preprocessing.side
    boxes = torch.tensor([[[100.0, 100, 500, 600], [20, 30, 900, 900]]])
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    decoder_of(model).answer(encoder_of(model).encode(pixels), input_boxes=boxes)
    for site, quantizer in quantizers.items():
        if site.role == WEIGHT:
            layer = model.get_submodule(site.path)
            flat = layer.weight.flatten(1)
            quantizer.cover(flat.amin(1), flat.amax(1))
            layer.freeze_weight()
        else:
            quantizer.cover(ranges[site].low, ranges[site].high)
            quantizer.freeze()
    round_float_rest(model, recipe.float_dtype)
    write_packed(path, to_packed(model, recipe, {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--model", default="sam_b", choices=["sam_b", "tiny", "small", "base_plus", "large"])
    parser.add_argument("--row", action="append", choices=list(ROWS))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{options.model}.saqsam"
        write_random_sam(path, options.bits, options.model)
        rows = bench(path, options.row, images=options.images, rounds=options.rounds)
    machine = {
        "model": options.model,
        "bits": options.bits,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0].to_dict(), *machine])
        writer.writeheader()
        writer.writerows({**row.to_dict(), **machine} for row in rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
