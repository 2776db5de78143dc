"""Every recipe that learns, and two that do not, on scenes of their own: accuracy, spread, cost.

    python benchmarks/reconstruction.py --coco DIR                 # all rows; stop it and start it at will
    python benchmarks/reconstruction.py --recipes saq-sam-star best --seeds 1 --iterations 20

All learned recipes take the same number of steps for each of their units (``--iterations``), with the
rates of rounding and scales in inverse proportion to it, so that a row compares methods and not patience.
A seed draws its own calibration scenes, with the boxes of their objects; the test scenes are the same for
all rows and were used for no choice. Rows that are in the CSV already are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from judge import Judge
from methods import StageMemory
from rows import Rows, spread

from saqsam import api
from saqsam.published.off_grid import quantize_as_published
from saqsam.recipe import Recipe, load_recipe
from saqsam.recipe.strict_yaml import parse_yaml
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

TEST_SEED, CALIBRATION_SEED = 770_001, 770_100
RECIPES = (
    "saq-sam-star",
    "adaround",
    "brecq",
    "qdrop",
    "ptq4sam-l",
    "ahcptq",
    "saq-sam",
    "best",
    "as-published-qdrop",
    "as-published-saq-sam",
)
AS_PUBLISHED = "as-published-"
"""Rows of models that no integers can hold, see ``saqsam.published.off_grid``: not for ranking."""
KEY = ("model", "recipe", "bits", "iterations", "seed", "prompts")
PROMPTS = {"boxes": "boxes", "clicks": "points"}
FLOAT, PHOTOGRAPHS = "float", "photographs"


def schedule(name: str, iterations: int) -> tuple[str, ...]:
    """Settings that give a learned recipe this many steps; none for a recipe that does not learn."""
    own = load_recipe(name).reconstruct
    if not own.learns:
        return ()
    weight_rate, scale_rate = min(0.1, 2 / iterations), min(0.01, 2.5 / iterations)
    rates = (f"reconstruct.weight_rate={weight_rate:.4g}", f"reconstruct.scale_rate={scale_rate:.4g}")
    # Steps of the whole model at the end, where a recipe has any, keep their share.
    whole = round(own.whole_iterations * iterations / own.iterations)
    last = (f"reconstruct.whole_iterations={max(1, whole)}",) if own.whole_iterations else ()
    return (f"reconstruct.iterations={iterations}", *rates, *last)


def stamp_of(name: str, bits: str, settings: tuple[str, ...]) -> str:
    """What was measured, in twelve digits: the recipe as written; keys that all recipes gain do not count."""
    text = (resources.files("saqsam") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    document = {key: value for key, value in parse_yaml(text, name).items() if key != "description"}
    canonical = json.dumps([document, bits, settings], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Bench:
    """Models, scenes and the file of results."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        self.rows = Rows(options.out, KEY, "stamp")
        self.test = scratch / "test"
        write_scenes(self.test, options.images, TEST_SEED)
        self.float: dict[str, Sam] = {}
        self.judges: dict[tuple[str, str], Judge] = {}

    def model(self, name: str) -> Sam:
        if name not in self.float:
            self.float[name] = api.load(name)
        return self.float[name]

    def calibration(self, seed: int) -> Path:
        directory = self.scratch / f"calibration-{seed}"
        if not directory.is_dir():
            write_scenes(directory, 32, CALIBRATION_SEED + seed)
        return directory

    def run(self) -> Iterator[dict[str, Any]]:
        """New rows as they are measured."""
        for model in self.options.models:
            head = dict.fromkeys(KEY, "") | {"model": model, "recipe": FLOAT, "bits": FLOAT, "stamp": FLOAT}
            yield from self.evaluated(self.model(model), head, {})
        for bits in self.options.bits:
            for seed in range(self.options.seeds):
                for model in self.options.models:
                    for name in self.options.recipes:
                        yield from self.quantized(model, name, bits, seed)

    def quantized(self, model: str, name: str, bits: str, seed: int) -> Iterator[dict[str, Any]]:
        own = name.removeprefix(AS_PUBLISHED)
        steps = schedule(own, self.options.iterations)
        settings = (*steps, *self.options.set)
        head = {
            "model": model,
            "recipe": " ".join((name, *self.options.set)),
            "bits": bits,
            "iterations": self.options.iterations if steps else 0,
            "seed": seed,
            "stamp": stamp_of(own, bits, settings),
        }
        if all(self.rows.has({**head, "prompts": prompts}) for prompts in PROMPTS):
            return
        recipe = load_recipe(own, bits=bits, settings=(*settings, f"calibration.seed={seed}"))
        quantize = api.quantize if own == name else quantize_as_published
        sam, cost = self.measured(quantize, self.model(model), recipe, self.calibration(seed))
        if own == name and self.options.engine != "torch":
            sam.save(self.scratch / "packed.safetensors")
            sam = api.load(self.scratch / "packed.safetensors", engine=self.options.engine)
        yield from self.evaluated(sam, head, cost)

    def measured(
        self, quantize: Callable[..., Sam], sam: Sam, recipe: Recipe, scenes: Path
    ) -> tuple[Sam, dict[str, Any]]:
        """The quantized model, and what it cost: wall and CPU seconds, largest resident memory."""
        wall, cpu = time.perf_counter(), time.process_time()
        with StageMemory() as memory:
            memory.report("begin", 0, 1)
            found = quantize(
                sam, recipe, scenes / "images", scenes / "instances.json", progress=memory.report
            )
        cost = {
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": round(max(memory.peaks.values(), default=0.0)),
        }
        return found, cost

    def evaluated(self, sam: Sam, head: dict[str, Any], cost: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Both kinds of prompts on the scenes, asked on the whole picture; boxes on photographs, answered as
        the model does."""
        if all(self.rows.has({**head, "prompts": prompts}) for prompts in PROMPTS):
            return
        whole = sam.answering_boxes(zoom=False, clip_to_box=False)
        for prompts, source in PROMPTS.items():
            found = self.judge(head["model"], source).figures(whole)
            row = {**head, "prompts": prompts, "AP": found.AP, "mIoU": found.mIoU}
            row |= {"agreement": found.agreement, **cost}
            if self.options.coco is not None and prompts == "boxes":
                found = self.judge(head["model"], PHOTOGRAPHS).figures(sam)
                agreement = None if head["recipe"] == FLOAT else found.agreement
                row |= {"coco_AP": found.AP, "coco_mIoU": found.mIoU, "coco_agreement": agreement}
            self.rows.add(row)
            yield row

    def judge(self, model: str, of: str) -> Judge:
        """Of one float model, for prompts on the scenes or for photographs."""
        if (model, of) not in self.judges:
            sam = self.model(model)
            if of == PHOTOGRAPHS:
                found = Judge(sam, self.options.coco, "annotations/instances.json", "boxes")
            else:
                found = Judge(
                    sam.answering_boxes(zoom=False, clip_to_box=False), self.test, "instances.json", of
                )
            self.judges[model, of] = found
        return self.judges[model, of]


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown table: mean and sample standard deviation over seeds, boxes and clicks side by side."""
    yield (
        "| model | bits | recipe | boxes: AP | mIoU | agreement | photographs "
        "| clicks: AP | mIoU | agreement | CPU s | peak MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    groups = dict.fromkeys((row["model"], row["bits"], row["recipe"], row["iterations"]) for row in rows)
    for group in groups:
        own = [r for r in rows if (r["model"], r["bits"], r["recipe"], r["iterations"]) == group]
        boxes, clicks = ([r for r in own if r["prompts"] == prompts] for prompts in PROMPTS)
        cells = [spread(boxes, "AP", 1, 100), spread(boxes, "mIoU", 3), spread(boxes, "agreement", 3)]
        cells += [spread(boxes, "coco_agreement", 3)]
        cells += [spread(clicks, "AP", 1, 100), spread(clicks, "mIoU", 3), spread(clicks, "agreement", 3)]
        cells += [spread(boxes, "cpu_seconds", 0), spread(boxes, "peak_mb", 0)]
        model, bits, recipe, iterations = group
        steps = f", {iterations} steps" if iterations not in ("", "0", 0) else ""
        yield f"| {model} | {bits} | `{recipe}`{steps} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outliers"])
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100, help="steps for each unit of a learned recipe")
    parser.add_argument("--set", action="append", default=[], help="a key of all recipes and its value")
    parser.add_argument("--images", type=int, default=60, help="test scenes")
    parser.add_argument("--coco", type=Path, help="directory with images/ and annotations/instances.json")
    parser.add_argument("--engine", default="torch", help="what computes packed models to be measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reconstruction.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        for row in bench.run():
            shown = " ".join(str(row[column]) for column in KEY)
            print(f"{shown}: AP {row['AP']:.4f}, mIoU {row['mIoU']:.4f}", flush=True)
    print("\n".join(["", *summary(bench.rows.all())]))


if __name__ == "__main__":
    main()
