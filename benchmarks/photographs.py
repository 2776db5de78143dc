"""Calibrating `small` on photographs against calibrating it on generated scenes, measured on either.

    python benchmarks/photographs.py --calibrate photos=FOLDER --images coco50/images \\
        --annotations coco50/annotations/instances.json

Objects of 1 % of the picture and more, asked by their annotated boxes and answered on crops, as `small` does
by default; agreement is mean IoU with the float model's masks. Each draw takes other calibration pictures; of
neither kind are annotations used, so each picture is asked a grid of clicks. A CSV keeps the rows; a stopped
run goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Rows, spread

from saqsam import api
from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import open_listed
from saqsam.images.difference import Masks, overlaps
from saqsam.images.files import Pixels
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

SCENES, SEED = "scenes", 880_300
SMALLEST = 0.01
"""Objects that cover less of their picture are not asked: they cost most crops and say least about masks."""
Asked = tuple[Pixels, list[tuple[float, float, float, float]], Masks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--calibrate", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--recipes", nargs="+", default=["saq-sam-star-w8a8", "saq-sam-star-w4a4"])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first photographs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "photographs.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sam = api.load(given.model)
    asked = read(given.images, given.annotations, given.limit)
    reference = answers(sam, asked)
    rows = Rows(given.out, ("model", "recipe", "set", "draw"), "photographs")
    keep(rows, {"model": given.model, "recipe": "float", "set": "–", "draw": 0}, reference, reference, asked)
    with tempfile.TemporaryDirectory() as scratch:
        folders = dict(one.split("=", 1) for one in given.calibrate)
        for draw in range(given.draws):
            place = Path(scratch) / str(draw)
            write_scenes(place, 32, SEED + draw)
            for name, folder in {SCENES: str(place / "images"), **folders}.items():
                for recipe in given.recipes:
                    row = {"model": given.model, "recipe": recipe, "set": name, "draw": draw}
                    if rows.has({**row, "photographs": len(asked)}):
                        continue
                    start = time.process_time()
                    chosen = load_recipe(recipe, settings=[f"calibration.seed={draw}"])
                    quantized = api.quantize(sam, chosen, folder)
                    row["seconds"] = round(time.process_time() - start, 1)
                    keep(rows, row, answers(quantized, asked), reference, asked)
    show(rows)


def read(images: Path, annotations: Path, limit: int | None) -> list[Asked]:
    """Pictures, boxes and true masks."""
    dataset = read_instances(annotations, images, limit=limit)
    found: list[Asked] = []
    for image in dataset.images:
        objects = [one for one in dataset.instances_of(image.id) if not one.iscrowd]
        objects = [one for one in objects if one.mask().mean() >= SMALLEST]
        if objects:
            truth = np.stack([one.mask() for one in objects])
            found.append((open_listed(image).pixels, [one.box_xyxy for one in objects], truth))
    return found


def answers(sam: Sam, asked: Sequence[Asked]) -> list[Masks]:
    return [sam.segment(pixels, boxes=boxes).masks for pixels, boxes, _ in asked]


def keep(
    rows: Rows, row: dict[str, Any], found: list[Masks], reference: list[Masks], asked: Sequence[Asked]
) -> None:
    pairs = list(zip(found, reference, asked, strict=True))
    row["mIoU"] = float(np.mean(np.concatenate([overlaps(one, truth) for one, _, (_, _, truth) in pairs])))
    row["agreement"] = float(np.mean(np.concatenate([overlaps(one, other) for one, other, _ in pairs])))
    rows.add({**row, "photographs": len(asked)})


def show(rows: Rows) -> None:
    """Print a Markdown table: mean and sample standard deviation over the draws."""
    print("| recipe | calibrated on | mIoU | agreement with float |\n|---|---|---|---|")
    for recipe, name in dict.fromkeys((row["recipe"], row["set"]) for row in rows.all()):
        some = [row for row in rows.all() if (row["recipe"], row["set"]) == (recipe, name)]
        print(f"| {recipe} | {name} | {spread(some, 'mIoU', 3)} | {spread(some, 'agreement', 3)} |")


if __name__ == "__main__":
    main()
