"""Prompt decoding at SAM-B's decoder size: transformers' own way against the shared one, and everything mode.

    OMP_NUM_THREADS=1 python benchmarks/decoder.py boxes        # speed and difference of logits
    OMP_NUM_THREADS=1 python benchmarks/decoder.py memory       # peak memory, a process for each way
    OMP_NUM_THREADS=1 python benchmarks/decoder.py everything   # decode loop of the mask-generation pipeline
    OMP_NUM_THREADS=2 python benchmarks/decoder.py engines --out decoder.csv   # every engine
    OMP_NUM_THREADS=2 python benchmarks/decoder.py engines --level avx2 --row "native w4a4"   # smaller CPU

Random weights, random embeddings: speed and memory do not depend on them, accuracy is not shown here. Ways
are interleaved and medians compared; seconds are CPU seconds, which other processes on the machine disturb
less than wall time. ``engines`` gives both, each row in processes of its own, in turns; every call is
about a new image, so what an engine does once for an image is counted. ``--level avx2`` holds PyTorch and the
kernels to AVX2; ONNX Runtime cannot be held.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from native import CAPS
from saqsam.bench.bench import TUNED
from saqsam.engines.load import integer_model, native_model
from saqsam.everything.filters import stability_scores
from saqsam.everything.propose import enlarged, propose
from saqsam.export.parity import mask_ious
from saqsam.families.embedding import Embedding
from saqsam.families.shared_decoder import can_share
from saqsam.grids.affine import Affine
from saqsam.grids.log2 import Log2
from saqsam.images.frame import Frame
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.pack.convert import from_packed, to_packed
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import load_recipe
from saqsam.segment.predictor import decode

SIDE = 1024
Answer = tuple[Tensor, Tensor]


def random_sam(bits: str = "float", recipe: str = "rtn") -> SamModel:
    """SAM-B's prompt encoder and decoder, random; an image encoder of one block, which is not run."""
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={"num_hidden_layers": 1, "global_attn_indexes": [0]},
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    model = SamModel._from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for network in model.mask_decoder.output_hypernetworks_mlps:
        for parameter in network.proj_out.parameters():
            parameter.data.mul_(100)  # logits reach the +-20 of trained models
    model.mask_decoder.iou_prediction_head.proj_out.bias.data.add_(
        1
    )  # the pipeline ignores thresholds below 0
    if bits != "float":
        attach(model, plan_sites(model, load_recipe(f"{recipe}-{bits}")))
        for site, quantizer in all_quantizers(model).items():
            if quantizer.kind is Log2:
                quantizer.set(Log2(quantizer.bits, torch.tensor(1.0), 2))
                continue
            levels = 2**quantizer.bits - 1
            scale = torch.tensor(4.0 / levels)
            if quantizer.channels is not None:
                weight = model.get_submodule(site.path).weight
                scale = weight.abs().flatten(1).amax(1) * 2 / levels
            quantizer.set(Affine(quantizer.bits, scale, torch.full_like(scale, (levels + 1) // 2)))
        for module in model.modules():
            if hasattr(module, "freeze_weight"):
                module.freeze_weight()
    return model


def random_boxes(count: int) -> Tensor:
    """``(count, 4)`` inside the image."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 700
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 300 + 5], dim=1)


def by_transformers(model: SamModel, embeddings: Tensor, boxes: Tensor, at_once: int) -> Answer:
    """``SamModel`` with ``at_once`` boxes a call."""
    parts = []
    for some in boxes.split(at_once):
        with torch.no_grad():
            output = model(image_embeddings=embeddings, input_boxes=some[None], multimask_output=False)
        parts.append((output.pred_masks[0], output.iou_scores[0]))
    return torch.cat([logits for logits, _ in parts]), torch.cat([scores for _, scores in parts])


def by_saqsam(model: SamModel, embeddings: Tensor, boxes: Tensor) -> Answer:
    """The shared decoder, as the predictor calls it."""
    return decode(model, Embedding(embeddings), Prompts(boxes=boxes), Frame((SIDE, SIDE), (SIDE, SIDE), SIDE))


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each way, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare_boxes(count: int, rounds: int) -> None:
    """Speed and difference, float and quantized."""
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(count)
    for bits in ("float", "w4a4"):
        model = random_sam(bits)
        assert can_share(model)
        plain, shared = by_transformers(model, embeddings, boxes, 8), by_saqsam(model, embeddings, boxes)
        difference = float((plain[0] - shared[0]).abs().max())
        ways: dict[str, Callable[[], Any]] = {
            f"transformers, {count} at once": lambda model=model: by_transformers(
                model, embeddings, boxes, count
            ),
            "transformers, 4 at once": lambda model=model: by_transformers(model, embeddings, boxes, 4),
            "saqsam": lambda model=model: by_saqsam(model, embeddings, boxes),
        }
        medians = interleaved(ways, rounds)
        for name, seconds in medians.items():
            speedup = medians[f"transformers, {count} at once"] / seconds
            print(
                f"{bits:5} {count} boxes  {name:26} {1000 * seconds / count:6.1f} ms/box  {speedup:.2f}x  "
                f"max |logit| {float(plain[0].abs().max()):.3f}  max difference {difference:.1e}",
                flush=True,
            )


def reset_peak() -> float:
    """Forget the peak of loading (Linux); returns the resident memory that remains, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Largest resident memory since :func:`reset_peak`, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure_memory(way: str, count: int) -> None:
    """Print what one way adds to this process's resident memory at its peak, in MB, and its CPU seconds."""
    model = random_sam()
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(count)
    by_saqsam(model, embeddings, boxes[:1])
    before = reset_peak()
    start = time.process_time()
    if way == "saqsam":
        by_saqsam(model, embeddings, boxes)
    else:
        by_transformers(model, embeddings, boxes, count)
    print(json.dumps({"MB": peak() - before, "seconds": time.process_time() - start}))


def compare_memory(counts: list[int], everything_at_once: list[int]) -> None:
    """Peak memory of both ways, each in a process of its own."""
    for way, sizes in (("transformers", everything_at_once), ("saqsam", counts)):
        for count in sizes:
            words = [sys.executable, __file__, "measure", "--way", way, "--count", str(count)]
            run = subprocess.run(words, capture_output=True, text=True, check=True)
            found = json.loads(run.stdout)
            rate = 1000 * found["seconds"] / count
            print(f"{way:13} {count:4} boxes  {found['MB']:8.0f} MB  {rate:6.1f} ms/box", flush=True)


def pipeline_loop(
    model: SamModel, processor: Any, embeddings: Tensor, points: Tensor, thresholds: Any
) -> Any:
    """What ``MaskGenerationPipeline`` does with 64 points at a time, by its own processor's functions."""
    kept = []
    for some in points.split(64):
        with torch.no_grad():
            output = model(
                image_embeddings=embeddings,
                input_points=some[None, :, None],
                input_labels=torch.ones(1, len(some), 1, dtype=torch.int64),
                multimask_output=True,
            )
        masks = processor.post_process_masks(
            output.pred_masks,
            [[SIDE, SIDE]],
            mask_threshold=0,
            reshaped_input_sizes=[[SIDE, SIDE]],
            binarize=False,
        )
        found, _, _ = processor.filter_masks(
            masks[0], output.iou_scores[0], (SIDE, SIDE), [0, 0, SIDE, SIDE], *thresholds, 0, 1
        )
        kept += found
    return kept


def saqsam_loop(model: SamModel, embeddings: Tensor, points: Tensor, thresholds: Any) -> list[Tensor]:
    """The same up to the same masks by everything mode's parts."""
    frame = Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)
    kept = []
    for proposals in propose(model, Embedding(embeddings), points, frame, above=thresholds[0], at_once=64):
        if len(proposals.logits):
            large = enlarged(proposals.logits, frame)
            stable = stability_scores(large, 1.0) >= thresholds[1]
            kept += list(large[stable] > 0)
    return kept


def rle_mask(code: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The mask of the pipeline's uncompressed run lengths (columns first)."""
    values = np.arange(len(code["counts"])) % 2 == 1
    return np.repeat(values, code["counts"]).reshape(code["size"][::-1]).T


def compare_everything(per_side: int, rounds: int) -> None:
    """The decode loop with all masks kept, and with the worse half predicted away."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    model, processor = random_sam(), SamImageProcessorPil()
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    centres = (torch.arange(per_side) + 0.5) / per_side * SIDE
    points = torch.cartesian_prod(centres, centres).flip(1)
    with torch.no_grad():
        scores = model(
            image_embeddings=embeddings,
            input_points=points[None, :16, None],
            input_labels=torch.ones(1, 16, 1, dtype=torch.int64),
        ).iou_scores
    for kept, least in (("all", 0.0), ("half", float(scores.median()))):
        thresholds = (least, 0.001)
        theirs = pipeline_loop(model, processor, embeddings, points, thresholds)
        ours = saqsam_loop(model, embeddings, points, thresholds)
        same = len(theirs) == len(ours)
        wrong = (
            max((int((rle_mask(a) != b.numpy()).sum()) for a, b in zip(theirs, ours, strict=True)), default=0)
            if same
            else -1
        )
        medians = interleaved(
            {
                "pipeline": lambda t=thresholds: pipeline_loop(model, processor, embeddings, points, t),
                "saqsam": lambda t=thresholds: saqsam_loop(model, embeddings, points, t),
            },
            rounds,
        )
        print(
            f"{len(points)} points, {kept} masks kept: pipeline {medians['pipeline']:.1f} s, saqsam "
            f"{medians['saqsam']:.1f} s, {medians['pipeline'] / medians['saqsam']:.2f}x; {len(theirs)} and "
            f"{len(ours)} masks, at most {wrong} of {SIDE * SIDE} pixels of a mask differ",
            flush=True,
        )


TRANSFORMERS = "transformers float"
ENGINES = (TRANSFORMERS, "saqsam float", "integer w8a8", "integer w4a4", "native w8a8", "native w4a4")
CALLS = {1: 9, 32: 3}
"""Calls by number of boxes."""
COMPARED = 4
"""Masks of a call that are compared with the simulation's."""
COLUMNS = ("level", "row", "boxes", "threads", "rounds", "ms_per_box", "speedup")
CPU_COLUMNS = ("cpu_ms_per_box", "cpu_speedup", "mask_iou")
"""Processor time, and what the masks have in common with those of the simulation on average."""


def engine_row(row: str) -> tuple[Any, Any]:
    """A row's model, and what it has to agree with."""
    bits = "float" if row.endswith("float") else row.split()[-1]
    model: Any = random_sam(bits, "saq-sam-star")
    if bits == "float":
        return model, model
    packed = to_packed(model, load_recipe(f"saq-sam-star-{bits}"), {})
    builder = native_model if row.startswith("native") else integer_model
    return builder(packed, model.config, row), from_packed(packed, Path(row))[0]


def measure_engine(row: str) -> None:
    """Print wall and processor seconds of each call of one row, and the first masks' agreement."""
    model, simulated = engine_row(row)
    generator = torch.Generator().manual_seed(2)
    found: dict[int, dict[str, Any]] = {}
    for count, calls in CALLS.items():
        boxes, times = random_boxes(count), []
        images = torch.randn(calls + 1, 1, 256, 64, 64, generator=generator)
        for embeddings in images:
            start = time.perf_counter(), time.process_time()
            if row == TRANSFORMERS:
                logits = by_transformers(model, embeddings, boxes, count)[0]
            else:
                logits = by_saqsam(model, embeddings, boxes)[0]
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        expected = by_saqsam(simulated, images[-1], boxes[:COMPARED])[0]
        agreement = statistics.mean(mask_ious(logits[:COMPARED] > 0, expected > 0))
        found[count] = {"times": times[1:], "agreement": agreement}  # the first one warms up
    print(json.dumps(found))


def compare_engines(rounds: int, out: Path | None, rows: list[str], level: str) -> None:
    """Median times of every row, and how many times faster it is than transformers."""
    times: dict[tuple[str, int], list[list[float]]] = {}
    agreement: dict[tuple[str, int], float] = {}
    environment = {**os.environ, **TUNED, **CAPS[level]}
    for _ in range(rounds):
        for row in rows:
            words = [sys.executable, __file__, "measure-engine", "--way", row]
            run = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
            for count, found in json.loads(run.stdout).items():
                times.setdefault((row, int(count)), []).extend(found["times"])
                agreement[row, int(count)] = found["agreement"]
    middles = {
        key: [statistics.median(kind) for kind in zip(*found, strict=True)] for key, found in times.items()
    }
    lines = [[*COLUMNS, *CPU_COLUMNS]]
    for (row, count), (wall, cpu) in sorted(middles.items(), key=lambda item: item[0][1]):
        base = middles.get((TRANSFORMERS, count), [wall, cpu])
        head = [level, row, str(count), str(torch.get_num_threads()), str(rounds)]
        shown = [f"{1000 * wall / count:.1f}", f"{base[0] / wall:.2f}"]
        shown += [f"{1000 * cpu / count:.1f}", f"{base[1] / cpu:.2f}", f"{agreement[row, count]:.4f}"]
        lines.append(head + shown)
        print(*lines[-1], sep="  ", flush=True)
    if out is not None:
        with out.open("a" if out.exists() else "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines[out.stat().st_size > 0 :])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "part", choices=("boxes", "memory", "everything", "engines", "measure", "measure-engine")
    )
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-side", type=int, default=8)
    parser.add_argument("--at-once", type=int, nargs="*", default=[16, 32, 64, 300])
    parser.add_argument("--way", default="saqsam")
    parser.add_argument("--row", action="append", choices=ENGINES, help="of engines; all if left out")
    parser.add_argument(
        "--level", choices=list(CAPS), default="avx512-vnni", help="of engines: what to cap at"
    )
    parser.add_argument("--out", type=Path, help="a CSV that lines are added to")
    arguments = parser.parse_args()
    if arguments.part == "boxes":
        compare_boxes(arguments.count, arguments.rounds)
    elif arguments.part == "memory":
        compare_memory([32, 300], arguments.at_once)
    elif arguments.part == "everything":
        compare_everything(arguments.per_side, arguments.rounds)
    elif arguments.part == "engines":
        compare_engines(arguments.rounds, arguments.out, arguments.row or list(ENGINES), arguments.level)
    elif arguments.part == "measure-engine":
        measure_engine(arguments.way)
    else:
        measure_memory(arguments.way, arguments.count)


if __name__ == "__main__":
    main()
