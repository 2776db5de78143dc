"""How far queries and keys of the mask decoder reach beyond the bulk of their values, by attention.

    python benchmarks/decoder_outliers.py nano small nano-outliers --coco coco50

Perceptual-consistency clipping (SAQ-SAM, section 3.2) is for queries and keys whose largest values lie far
from all others: about 170 against 1 in SAM-B's decoder, says the paper. For every attention of the decoder,
and for scenes and photographs asked by boxes: the largest magnitude over the 99.9th percentile of magnitudes.
A Gaussian's ratio is about 1.6 at a hundred thousand values; of a ratio above 3, a grid that spans the whole
range spends more than two thirds of its steps on one value in a thousand.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saqsam import api
from saqsam.families.record import DECODER
from saqsam.models.lookup import module_at
from saqsam.models.sites import attention_rows
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

SEED = 880_400


class Magnitudes:
    """Outputs of some linear layers while it is entered, every seventh value of each call."""

    def __init__(self, sam: Sam, paths: dict[str, str]) -> None:
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        self.largest: dict[str, float] = defaultdict(float)
        self._layers = {name: module_at(sam.model, path, nn.Linear) for name, path in paths.items()}
        self._handles: list[Any] = []

    def __enter__(self) -> Magnitudes:
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_hook(self._looked(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _looked(self, name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = output.detach().abs().flatten()
            self.largest[name] = max(self.largest[name], float(values.max()))
            self.seen[name].append(values[::7].clone())

        return look

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for name, parts in self.seen.items():
            values = torch.cat(parts).sort().values
            bulk = float(values[int(0.999 * (len(values) - 1))])
            ratio = self.largest[name] / max(bulk, 1e-12)
            largest = round(self.largest[name], 3)
            found.append(
                {"tensor": name, "largest": largest, "p99.9": round(bulk, 3), "ratio": round(ratio, 2)}
            )
        return found


def measured(name: str, images: Path, annotations: Path, limit: int) -> list[dict[str, Any]]:
    """The ratios of one model on one set; the decoder computes prompt by prompt, as it was trained."""
    sam = api.load(name)
    paths = {}
    for row in attention_rows(sam.model, DECODER):
        query, key = row.projections[:2]
        paths |= {f"{row.path} query": query, f"{row.path} key": key}
    with Magnitudes(sam, paths) as seen:
        api.evaluate(sam, images, annotations, "boxes", limit=limit)
    return seen.rows()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--coco", type=Path, help="directory with images/ and annotations/instances.json")
    parser.add_argument("--limit", type=int, default=20, help="pictures of each set")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoder_outliers.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        truth = write_scenes(Path(scratch), given.limit, SEED)
        sets = {"scenes": (Path(scratch) / "images", truth)}
        if given.coco is not None:
            sets["photographs"] = (given.coco / "images", given.coco / "annotations" / "instances.json")
        for name in given.models:
            for kind, (images, annotations) in sets.items():
                found = measured(name, images, annotations, given.limit)
                rows += [{"model": name, "set": kind, **row} for row in found]
    print("| model | pictures | largest ratio | of | median ratio |\n|---|---|---|---|---|")
    for name in given.models:
        for kind in sets:
            own = sorted(
                (row for row in rows if (row["model"], row["set"]) == (name, kind)),
                key=lambda row: row["ratio"],
            )
            most, middle = own[-1], own[len(own) // 2]
            print(f"| {name} | {kind} | {most['ratio']} | `{most['tensor']}` | {middle['ratio']} |")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
