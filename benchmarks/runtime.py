"""Speed and memory of a SAM-B in integers, against PyTorch and ONNX Runtime: one CSV row for each engine.

    python benchmarks/runtime.py --bits w4a8 --rounds 2 --out runtime-w4a8.csv

Weights are random and ranges come from one pass over noise: what is measured is speed and memory, not masks.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from saqsam.bench.bench import bench
from saqsam.bench.rows import ROWS
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


@torch.no_grad()
def write_random_sam(path: Path, bits: str) -> None:
    """A packed SAM-B with random weights."""
    torch.manual_seed(0)
    config = SamConfig()
    config.vision_config.initializer_range = 0.02  # 1e-10 otherwise: an encoder of zeros
    model = SamModel(config).eval().requires_grad_(False)
    recipe = load_recipe(f"rtn-{bits}")
    attach(model, plan_sites(model, recipe))
    quantizers = all_quantizers(model)
    ranges = {site: Range() for site in quantizers if site.role != WEIGHT}
    for site, seen in ranges.items():
        quantizers[site].observer = seen
    side = model.config.vision_config.image_size
    embedding = model.vision_encoder(torch.randn(1, 3, side, side)).last_hidden_state
    model(
        image_embeddings=embedding, input_boxes=torch.tensor([[[100.0, 100, 500, 600], [20, 30, 900, 900]]])
    )
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
    parser.add_argument("--row", action="append", choices=list(ROWS))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "sam-b.saqsam"
        write_random_sam(path, options.bits)
        rows = bench(path, options.row or tuple(ROWS), images=options.images, rounds=options.rounds)
    machine = {
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
