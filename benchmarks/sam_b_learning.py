"""What learning a SAM-B costs here: seconds of a step for each unit, peak memory, and the whole of it.

    python benchmarks/sam_b_learning.py --images FOLDER --recipe saq-sam-w4a4

Random weights at 1024 px and random boxes. Every unit takes a few real steps (``--steps``) on four images;
the time of a step, from the second on, is multiplied with the steps of the recipe. Passes outside of learning
are left out: each unit runs once for each image and path, which ``sam_b.py`` shows to be small beside this.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from sam_b import MALLOC, random_sam_b, told, write_boxes


class Clock:
    """A listener that keeps when each step of each unit ended."""

    def __init__(self) -> None:
        self.ends: dict[str, list[float]] = {}

    def __call__(self, unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        """See ``saqsam.quantize``."""
        del step, terms, seconds_left
        self.ends.setdefault(unit, []).append(time.perf_counter())

    def seconds(self) -> dict[str, float]:
        """Median seconds of a step, by unit."""
        return {unit: statistics.median(b - a for a, b in pairwise(ends)) for unit, ends in self.ends.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--recipe", default="saq-sam-w4a4")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a key of the recipe and its value")
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    import torch

    from saqsam import api
    from saqsam.recipe import load_recipe
    from saqsam.sam import Sam

    torch.set_num_threads(2)
    whole = load_recipe(options.recipe, settings=tuple(options.set)).reconstruct
    settings = [*options.set, "calibration.images=4", f"reconstruct.iterations={options.steps}"]
    if whole.whole_iterations:
        settings.append(f"reconstruct.whole_iterations={options.steps}")
    recipe = load_recipe(options.recipe, settings=settings)
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        annotations = Path(directory) / "boxes.json"
        write_boxes(options.images, 4, recipe.reconstruct.prompts, annotations)
        api.quantize(
            Sam(random_sam_b(), "sam-b"), recipe, options.images, annotations, progress=told, listener=clock
        )
    total = 0.0
    for unit, seconds in clock.seconds().items():
        total += seconds * whole.iterations
        minutes = seconds * whole.iterations / 60
        print(f"{unit}: {seconds:.2f} s a step, {whole.iterations} steps: {minutes:.0f} min")
    print(f"{options.recipe}, {recipe.reconstruct.batch} images a step: {total / 3600:.1f} hours of steps")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, 4 images")


if __name__ == "__main__":
    main()
