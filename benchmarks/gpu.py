"""What a GPU makes of a SAM: float, simulated, int8 and compiled engines, their masks, and learning on it.

    python benchmarks/gpu.py --size b h --out benchmarks/results/gpu.csv
    python benchmarks/gpu.py --size nano --device cpu --out try.csv      # the same steps, to try the script

Random weights at 1024 px (``nano`` is the shipped model): speed and memory do not depend on accuracy.
Calibration is by round-to-nearest on one scene. Seconds are medians after a first call, which compiles and
warms up; memory is what PyTorch allocated on the device at most. Agreement is the mean IoU of 32 boxes' masks
with the simulation's on the same device.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SamConfig, SamModel

from saqsam import api
from saqsam.families.framing import preprocess
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.decode import decode
from saqsam.segment.predictor import embed

HUGE = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "global_attn_indexes": [7, 15, 23, 31],
    "mlp_dim": 5120,
}
ENGINES = ("torch", "int8", "compiled")
BOXES, TIMES = 32, 3


def float_sam(size: str, device: str) -> Sam:
    """A float model on a device."""
    if size == "nano":
        return api.load("nano", device=device)
    torch.manual_seed(0)
    config = SamConfig(vision_config={**(HUGE if size == "h" else {}), "initializer_range": 0.02})
    config.mask_decoder_config.layer_norm_eps = 1e-5
    model = SamModel._from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    return Sam(model, f"sam-{size}").to(device)


def waited(device: str) -> float:
    """The time, once the device has done what it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(device: str, act: Callable[[], Any]) -> float:
    """Median of a few calls after a first one."""
    act()
    found = []
    for _ in range(TIMES):
        began = waited(device)
        act()
        found.append(waited(device) - began)
    return statistics.median(found)


def memory(device: str) -> float:
    """Most gigabytes of the device since the last call."""
    if not device.startswith("cuda"):
        return float("nan")
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def measured(sam: Sam, device: str) -> tuple[dict[str, float], np.ndarray]:
    """Seconds of an image and of 32 boxes, and their masks."""
    memory(device)
    scene = make_scene(np.random.default_rng(1), (1024, 1024))
    pixel_values, frame = preprocess(sam.model, scene.image)
    pixel_values = pixel_values.to(device)
    corner = torch.linspace(20, 500, BOXES)
    boxes = torch.stack([corner, corner.flip(0), corner + 300, corner.flip(0) + 400], dim=1)
    prompts = Prompts(boxes, None, None, None)
    with torch.no_grad():
        embedding = embed(sam.model, pixel_values)
        masks = decode(sam.model, embedding, prompts, frame)[0]
        row = {
            "encode_seconds": seconds(device, lambda: embed(sam.model, pixel_values)),
            "boxes_seconds": seconds(device, lambda: decode(sam.model, embedding, prompts, frame)),
            "peak_gb": memory(device),
        }
    return row, masks.cpu().numpy() > 0


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Mean IoU; 1 where both are empty."""
    both, either = ((f(one, other)).reshape(len(one), -1).sum(1) for f in (np.logical_and, np.logical_or))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())


def engines(size: str, device: str, scenes: Path, directory: Path) -> list[dict[str, Any]]:
    """One row for float and for each engine."""
    sam = float_sam(size, device)
    figures, masks = measured(sam, device)
    rows = [{"model": size, "row": "float", **figures}]
    recipe = load_recipe("rtn-w8a8", settings=("calibration.images=1", "calibration.prompts=4"))
    began = waited(device)
    made = api.quantize(sam, recipe, scenes / "images", scenes / "instances.json")
    rows[0]["quantize_seconds"] = waited(device) - began
    packed = directory / f"{size}.safetensors"
    made.save(packed)
    del sam, made
    expected = None
    for engine in ENGINES:
        figures, masks = measured(api.load(packed, device=device, engine=engine), device)
        expected = masks if expected is None else expected
        rows.append({"model": size, "row": engine, **figures, "agreement": agreement(masks, expected)})
    return rows


class Clock:
    """A listener that keeps when each step of each unit ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: dict[str, list[float]] = {}

    def __call__(self, unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        """See ``saqsam.quantize``."""
        del step, terms, seconds_left
        self.ends.setdefault(unit, []).append(waited(self.device))

    def hours(self, steps: int) -> float:
        """Of all units, so many steps each."""
        each = (statistics.median(b - a for a, b in pairwise(ends)) for ends in self.ends.values())
        return sum(each) * steps / 3600


def learning(size: str, device: str, steps: int, scenes: Path) -> dict[str, Any]:
    """What ``saq-sam`` takes: hours of steps, and memory."""
    memory(device)
    whole = load_recipe("saq-sam-w4a4").reconstruct.iterations
    settings = ("calibration.images=4", "clip.images=1", f"reconstruct.iterations={steps}")
    clock = Clock(device)
    recipe = load_recipe("saq-sam-w4a4", settings=settings)
    annotations = scenes / "instances.json"
    api.quantize(float_sam(size, device), recipe, scenes / "images", annotations, listener=clock)
    return {
        "model": size,
        "row": "saq-sam-w4a4, learning",
        "hours_of_steps": clock.hours(whole),
        "peak_gb": memory(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", choices=["nano", "b", "h"], default=["b", "h"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        scenes = write_scenes(Path(directory) / "scenes", 4, 3, size=(512, 512)).parent
        for size in options.size:
            rows += engines(size, options.device, scenes, Path(directory))
            rows.append(learning(size, options.device, options.steps, scenes))
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*fields, "device", "torch"])
        writer.writeheader()
        writer.writerows({**row, "device": name, "torch": torch.__version__} for row in rows)
    print(f"{name}, torch {torch.__version__}")
    print("| " + " | ".join(fields) + " |")
    print("|" + "---|" * len(fields))
    for row in rows:
        cells = (row.get(key, "") for key in fields)
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")


if __name__ == "__main__":
    main()
