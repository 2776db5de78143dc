"""Figures of the card of ``small``: mIoU by object size on photographs and on scenes, predicted-IoU error.

    python tools/evaluate_small.py --coco DIR [--model small | --weights RUN/average.safetensors]
    python tools/evaluate_small.py --coco PHOTOS --held-out          # photographs that choose between models

Masks are the single mask, cut at 0.  A click is the pixel of the object farthest from its edge.  "zoom" is
a box answered on a square crop around it, 1.5 times its longer side; "clip" keeps what lies in the box.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from evaluate_nano import Objects, centre_click, coco, every_image, inscribed_ellipse, iou, scenes, tight_box
from photos_data import HELD_OUT
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, embed, preprocess, upscale_masks
from saqsam.shipped.embedded import embedded_sam

SIZES = ((0.0, "all"), (0.0, "< .3 %"), (0.003, ".3-1 %"), (0.01, "1-3 %"), (0.03, "3-10 %"), (0.1, "> 10 %"))
"""Least share of the picture, and name, of the rows of the table; the first is all objects."""
FACTOR = 1.5

Box = tuple[int, int, int, int]
Table = dict[str, dict[str, list[float]]]


def clipped(mask: np.ndarray, box: Box) -> np.ndarray:
    inside = np.zeros_like(mask)
    x0, y0, x1, y1 = box
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return inside


def zoomed(model: SamModel, pixels: np.ndarray, box: Box, factor: float) -> tuple[np.ndarray, float]:
    """Mask and predicted IoU of one box, answered on a square crop around it."""
    x0, y0, x1, y1 = box
    side = factor * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
    part = np.ascontiguousarray(pixels[top : round(y + side / 2), left : round(x + side / 2)])
    values, frame = preprocess(model, part)
    own = torch.tensor([[x0 - left, y0 - top, x1 - left, y1 - top]], dtype=torch.float32)
    logits, scores = decode(model, embed(model, values), Prompts(own, None, None, None), frame)
    mask = np.zeros(pixels.shape[:2], bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = upscale_masks(logits, frame)[0, 0].numpy()
    return mask, float(scores[0, 0])


def rows_of(mask: np.ndarray) -> list[str]:
    share = mask.mean()
    own = max(size for size in SIZES[1:] if size[0] <= share)[1]
    return ["all", own, *(["1 % and more"] if share >= 0.01 else [])]


def measure(model: SamModel, objects: Iterator[Objects], zoom: float) -> Table:
    """IoU of every object, by row and column of the table; predicted-IoU errors are columns too."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for pixels, masks, _ in objects:
        if not masks:
            continue
        boxes = [tight_box(mask) for mask in masks]
        clicks = torch.tensor([[centre_click(mask)] for mask in masks], dtype=torch.float32)
        values, frame = preprocess(model, pixels)
        embedding = embed(model, values)
        by_box = Prompts(torch.tensor(boxes, dtype=torch.float32), None, None, None)
        by_click = Prompts(None, clicks, torch.ones(len(masks), 1, dtype=torch.int64), None)
        found = [decode(model, embedding, given, frame) for given in (by_box, by_click)]
        masks_found = [upscale_masks(logits, frame)[:, 0].numpy() for logits, _ in found]
        for i, (truth, box) in enumerate(zip(masks, boxes, strict=True)):
            values_here = {"ellipse": iou(inscribed_ellipse(box, truth.shape), truth)}
            for kind, answers, (_, scores) in zip(("box", "click"), masks_found, found, strict=True):
                values_here[kind] = iou(answers[i], truth)
                values_here[f"{kind} off"] = abs(float(scores[i, 0]) - values_here[kind])
            values_here["box clip"] = iou(clipped(masks_found[0][i], box), truth)
            if zoom:
                near, score = zoomed(model, pixels, box, zoom)
                values_here["zoom"] = iou(near, truth)
                values_here["zoom clip"] = iou(clipped(near, box), truth)
                values_here["zoom off"] = abs(score - values_here["zoom"])
            for row in rows_of(truth):
                for column, value in values_here.items():
                    table[row][column].append(value)
    return table


def show(title: str, table: Table) -> None:
    """Print a Markdown table, one row for each size."""
    columns = list(table["all"])
    print(f"| {title} | n | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for row in (*(name for _, name in SIZES[1:]), "1 % and more", "all"):
        if table[row]:
            means = " | ".join(f"{np.mean(table[row][column]):.3f}" for column in columns)
            print(f"| {row} | {len(table[row]['box'])} | {means} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", help="an embedded model")
    parser.add_argument("--weights", type=Path, help="RUN/average.safetensors, instead of a shipped model")
    parser.add_argument("--coco", type=Path, help="images/ and annotations/instances.json or instances.json")
    parser.add_argument("--held-out", action="store_true", help="only images kept out of training")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--zoom", type=float, default=FACTOR, help="side of the crop in boxes; 0: none")
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_float(options.weights) if options.weights else embedded_sam(options.model)

    def held_out(record: dict[str, object]) -> bool:
        return int(str(record["id"])) % 10 == HELD_OUT

    if options.coco:
        objects = coco(options.coco, held_out if options.held_out else every_image)
        taken = (one for number, one in enumerate(objects) if number % options.every == 0)
        show("photographs", measure(model, taken, options.zoom))
    if options.scenes:
        show("scenes", measure(model, scenes(options.scenes, options.seed), 0))


if __name__ == "__main__":
    main()
