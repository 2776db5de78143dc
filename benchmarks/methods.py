"""The recipes that do not learn, at four widths, on generated scenes: accuracy, spread, cost of each stage.

    python benchmarks/methods.py                                   # all rows, half an hour on a shared core
    python benchmarks/methods.py --seeds 1 --images 24 --bits w4a4 # a quick look

A seed draws its own calibration scenes; the test scenes are the same for all rows and belong to no
calibration or training set. Accuracy is that of the frozen model, which is what a packed file holds.
Writes a CSV with one line for each run, and prints mean and spread (sample standard deviation) over seeds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saqsam import api
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

TEST_SEED, CALIBRATION_SEED = 880_001, 880_100
WIDTHS = ("w8a8", "w6a6", "w4a4", "w3a3")


@dataclass(frozen=True)
class Method:
    """A row of the table: a shipped recipe with a few keys changed."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


METHODS = (
    Method("rtn", "rtn"),
    Method("percentile", "percentile"),
    Method("mse", "mse"),
    Method("ptq4sam-s", "ptq4sam-s"),
    Method("saq-sam-star, no PCC", "saq-sam-star", ("clip.method=none",)),
    Method("saq-sam-star", "saq-sam-star"),
    Method("saq-sam-star, 1 image", "saq-sam-star", ("clip.images=1",)),
    Method(
        "saq-sam-star + folds",
        "saq-sam-star",
        ("folds.key_centring=true", "folds.query_key_equalisation=true", "folds.value_output_scaling=true"),
    ),
)


class StageMemory:
    """Largest resident memory seen while each stage ran, sampled fifty times a second."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = defaultdict(float)
        self._stage, self._stop = "", threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> StageMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def report(self, stage: str, done: int, total: int) -> None:
        self._stage = stage

    def _sample(self) -> None:
        pages = Path("/proc/self/statm")
        while not self._stop.wait(0.02):
            used = int(pages.read_text().split()[1]) * 4096 / 1e6
            self.peaks[self._stage] = max(self.peaks[self._stage], used)


def runs(options: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """One row for each model, method, width and seed; the float model first."""
    test = scratch / "test"
    truth = write_scenes(test, options.images, TEST_SEED)
    sets = {seed: scratch / f"calibration-{seed}" for seed in range(options.seeds)}
    for seed, directory in sets.items():
        write_scenes(directory, 32, CALIBRATION_SEED + seed)
    for model in options.models:
        sam = api.load(model)
        for prompts in ("boxes", "points"):
            found = api.evaluate(sam, test / "images", truth, prompts)
            yield {"model": model, "method": "float", "bits": "float", "seed": 0, **figures(found.to_dict())}
        for bits in options.bits if model == "nano" else options.outlier_bits:
            for method in (method for method in METHODS if method.name in options.methods):
                for seed, directory in sets.items():
                    settings = (*method.settings, f"calibration.seed={seed}")
                    yield from one_run(sam, model, method, bits, seed, settings, directory, test, truth)


def one_run(
    sam: Sam,
    model: str,
    method: Method,
    bits: str,
    seed: int,
    settings: tuple[str, ...],
    calibration: Path,
    test: Path,
    truth: Path,
) -> Iterator[dict[str, Any]]:
    recipe = load_recipe(method.recipe, bits=bits, settings=settings)
    with StageMemory() as memory:
        packed = api.quantize(
            sam, recipe, calibration / "images", calibration / "instances.json", progress=memory.report
        )
    cost = {
        "seconds": dict(packed.log.seconds) if packed.log else {},
        "peak_mb": {stage: round(peak) for stage, peak in memory.peaks.items() if stage},
        "encoder_passes": packed.records["encoder_passes"],
    }
    for prompts in ("boxes", "points"):
        found = api.evaluate(packed, test / "images", truth, prompts)
        row = {"model": model, "method": method.name, "bits": bits, "seed": seed}
        yield {**row, **figures(found.to_dict()), **cost}


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("prompts", "AP", "mIoU", "nan_count")}


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown table: mean and spread over seeds."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["model"], row["bits"], row["method"], row["prompts"]].append(row)
    yield "| model | bits | method | prompts | mask AP | mIoU | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for (model, bits, method, prompts), group in groups.items():
        cells = [spread([100 * row["AP"] for row in group], 1)]
        cells += [spread([row["mIoU"] for row in group], 3)]
        seconds = [sum(row["seconds"].values()) for row in group if "seconds" in row]
        cells += [f"{statistics.mean(seconds):.1f}" if seconds else "–"]
        yield f"| {model} | {bits} | {method} | {prompts} | " + " | ".join(cells) + " |"


def stages(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown table: median seconds and largest memory of each stage of the full recipe."""
    own = [row for row in rows if row["method"] == "saq-sam-star"]
    yield "| stage of saq-sam-star | seconds, median | peak MB |"
    yield "|---|---|---|"
    for stage in own[0]["seconds"] if own else ():
        seconds = statistics.median(row["seconds"][stage] for row in own)
        peak = max((row["peak_mb"].get(stage, 0) for row in own), default=0)
        yield f"| {stage} | {seconds:.2f} | {peak or '–'} |"


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outliers"])
    parser.add_argument("--bits", nargs="+", default=list(WIDTHS))
    parser.add_argument("--methods", nargs="+", default=[method.name for method in METHODS])
    parser.add_argument("--outlier-bits", nargs="+", default=["w4a4"], help="widths tried on nano-outliers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for row in runs(options, Path(scratch)):
            rows.append(row)
            shown = " ".join(f"{row[k]}" for k in ("model", "bits", "method", "seed", "prompts"))
            print(f"{shown}: mIoU {row['mIoU']:.4f}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(["", *summary(rows), "", *stages(rows), ""]))
    print(f"{time.perf_counter() - began:.0f} s; torch {torch.__version__}, {options.threads} threads")


if __name__ == "__main__":
    main()
