"""Box prompts on the whole picture, on crops around them, and clipped to their boxes.

    python benchmarks/zoom.py nano --images coco50/images --annotations coco50/annotations/instances.json

Mean IoU over all annotated boxes of objects that are no crowd, by the share of the picture that the object
covers; an ellipse drawn into each box for comparison; encoder passes and CPU seconds of each way.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from saqsam import load
from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import open_listed
from saqsam.datasets.masks import Mask
from saqsam.prompts.from_dataset import BOXES, prompts_for
from saqsam.segment.zoom import Answering, segment

WAYS = {
    "whole picture": Answering(),
    "clip": Answering(clip_to_box=True),
    "zoom": Answering(zoom=True),
    "both": Answering(zoom=True, clip_to_box=True),
}
BANDS = {"below 0.3 %": 0.003, "0.3 to 1 %": 0.01, "1 to 3 %": 0.03, "3 to 10 %": 0.1, "above 10 %": 1.01}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    sam = load(given.model)
    dataset = read_instances(given.annotations, given.images)
    dataset = dataset if given.limit is None else dataset.first(given.limit)
    overlaps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    passes: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    asked = prompts_for(dataset, BOXES)
    for image in [one for one in dataset.images if one.id in asked]:
        pixels = open_listed(image).pixels
        objects = asked[image.id].instances
        truth = np.stack([one.mask() for one in objects])
        bands = [_band(mask) for mask in truth]
        answers = {"ellipse": np.stack([_ellipse(one.box_xyxy, truth.shape[1:]) for one in objects])}
        for way, how in WAYS.items():
            start = time.process_time()
            found = segment(sam.model, pixels, asked[image.id].prompts, how)
            seconds[way] += time.process_time() - start
            passes[way] += found.encoder_passes
            answers[way] = found.masks
        for way, masks in answers.items():
            for mask, true, band in zip(masks, truth, bands, strict=True):
                value = float((mask & true).sum() / max(1, (mask | true).sum()))
                for name in (band, *(["1 % and more"] if true.mean() >= 0.01 else []), "all"):
                    overlaps[name][way].append(value)
    ways = ["ellipse", *WAYS]
    print("| objects | n |", " | ".join(ways), "|")
    print("|---|---|" + "---|" * len(ways))
    for name in (*BANDS, "1 % and more", "all"):
        cells = [f"{np.mean(overlaps[name][way]):.3f}" if overlaps[name] else "–" for way in ways]
        print(f"| {name} | {len(overlaps[name]['ellipse'])} |", " | ".join(cells), "|")
    for way in WAYS:
        print(f"{way}: {passes[way]} encoder passes, {seconds[way]:.1f} s of CPU time")


def _band(mask: Mask) -> str:
    return next(name for name, end in BANDS.items() if mask.mean() < end)


def _ellipse(box: tuple[float, float, float, float], size: tuple[int, ...]) -> Mask:
    """The pixels whose centres lie in the ellipse that fills a box."""
    x0, y0, x1, y1 = box
    y, x = np.ogrid[: size[0], : size[1]]
    inside: Mask = (
        ((x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2
        + ((y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2
    ) <= 1
    return inside


if __name__ == "__main__":
    main()
