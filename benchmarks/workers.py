"""Images a second of ``saqsam segment --on ray`` with one and with two workers: one CSV row a run.

    python benchmarks/workers.py --images 100 200 400 --rounds 2

Every worker computes on one thread and has one core, so two workers have twice the cores of one.
``startup_s`` is from the call to the first finished shard (Ray, the workers' imports, the model);
``steady_s`` is from there to the last. ``images_per_s`` counts the steady part only. ``sha256`` is
that of the merged rows: rows with equal ``images`` must agree in it, and the run fails if they do not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rows import Rows

from saqsam import api
from saqsam.datasets.coco import read_instances
from saqsam.datasets.listing import from_annotations
from saqsam.many.ray_workers import RayEngine
from saqsam.many.run import run_many
from saqsam.many.tasks import SegmentJob
from saqsam.many.work import Item, identity_of
from saqsam.prompts.from_dataset import prompts_for
from saqsam.scenes import write_scenes

RESULTS = Path(__file__).parent / "results" / "workers.csv"


@dataclass(frozen=True)
class OneThread(RayEngine):
    """Workers that compute on one thread each, whatever the number of cores."""

    @property
    def threads(self) -> int:
        """Always one, so that workers are compared at equal means."""
        return 1


def measure(model: str, items: Sequence[Item], workers: int, images_each: int) -> dict[str, Any]:
    """One run in a new directory."""
    load = partial(api.load, model)
    identity = identity_of("segment", load(), items)
    seen: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        found = run_many(
            SegmentJob(load),
            items,
            identity,
            Path(scratch) / "run",
            engine=OneThread(workers),
            images_each=images_each,
            progress=lambda done, total: seen.append((time.perf_counter(), done)),
        )
        seconds = time.perf_counter() - began
    (_, _), (first, at_first), *_, (last, at_last) = seen
    masks = json.dumps([row["results"] for row in found.rows], sort_keys=True).encode()
    return {
        "startup_s": round(first - began, 2),
        "steady_s": round(last - first, 2),
        "images_per_s": round((at_last - at_first) / (last - first), 2),
        "total_s": round(seconds, 2),
        "duplicates": found.duplicates,
        "sha256": hashlib.sha256(masks).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--images-each", type=int, default=8, help="images in a shard")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS, ("model", "images", "images_each", "workers", "round"), "torch")
    with tempfile.TemporaryDirectory() as scratch:
        annotations = write_scenes(Path(scratch) / "scenes", max(options.images), 11)
        dataset = read_instances(annotations, annotations.parent / "images")
        prompts = prompts_for(dataset, "boxes")
        items = [Item(image, prompts.get(image.id)) for image in from_annotations(dataset)]
        for number in range(options.rounds):
            for count in options.images:
                for workers in options.workers:  # interleaved: what disturbs one disturbs the other
                    key = {
                        "model": options.model,
                        "images": count,
                        "images_each": options.images_each,
                        "workers": workers,
                        "round": number,
                        "cores": len(os.sched_getaffinity(0)),
                        "torch": torch.__version__,
                    }
                    if not rows.has(key):
                        rows.add(key | measure(options.model, items[:count], workers, options.images_each))
                        print(rows.all()[-1])
    for count in options.images:
        answers = {row["sha256"] for row in rows.all() if row["images"] in (count, str(count))}
        if len(answers) != 1:
            raise SystemExit(f"{count} images: numbers of workers disagree: {sorted(answers)}")


if __name__ == "__main__":
    main()
