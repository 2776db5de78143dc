"""Speed, memory, size and agreement of one packed model on several engines, on the same line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from saqsam.bench.rows import ROWS, float_contents, row_problem
from saqsam.errors import SaqsamError, UsageError
from saqsam.export.parity import mask_ious
from saqsam.extras import require_onnx
from saqsam.pack.file import is_packed, read_packed

logger = logging.getLogger("saqsam")
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""Without these, glibc gives large tensors back to the system after every operation, and PyTorch is up to 1.4
times slower; a comparison must not credit an engine with that."""


@dataclass(frozen=True)
class BenchRow:
    """One engine's figures; seconds are medians over rounds and images without each process' first image.

    Attributes:
        row: its name.
        encoder_seconds: for one image, wall time.
        encoder_cpu_seconds: for one image, added up over threads: less disturbed by other programs.
        decoder_seconds: for one prompt, wall time.
        decoder_cpu_seconds: for one prompt.
        peak_bytes: resident memory at its highest, Python and PyTorch included; None where unknown.
        model_bytes: of the weights as this engine stores them.
        agreement: mean IoU of its masks with the simulation's.
        images: images in each process.
        rounds: processes.
    """

    row: str
    encoder_seconds: float
    encoder_cpu_seconds: float
    decoder_seconds: float
    decoder_cpu_seconds: float
    peak_bytes: int | None
    model_bytes: int | None
    agreement: float | None
    images: int
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def bench(
    path: str | Path,
    rows: Sequence[str] | None = None,
    *,
    images: int = 2,
    rounds: int = 2,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[BenchRow]:
    """Run every row in processes of its own, in turns, so that a busy machine disturbs all alike.

    Args:
        path: a packed file.
        rows: names out of ``ROWS``; ``None`` means all that can compute this model, and a line says which
            are left out.
        images: generated images in each process.
        rounds: processes for each row.
        progress: called with the stage's name, processes done and processes in total.

    Raises:
        UsageError: not a packed file, no such row, or onnx is not installed.
        SaqsamError: a process failed; the message is its own.
    """
    require_onnx()
    path = Path(path)
    if not is_packed(path):
        raise UsageError(f"{path}: not a packed file; bench compares engines on one written by quantize")
    rows = _fitting(path) if rows is None else rows
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise UsageError(f"row '{unknown[0]}': the rows are {', '.join(ROWS)}")
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    masks: dict[str, list[Any]] = {}
    with TemporaryDirectory() as directory:
        for turn in range(rounds * len(rows)):
            row = rows[turn % len(rows)]
            progress("bench", turn, rounds * len(rows))
            figures, masks[row] = _run(row, path, images, Path(directory) / str(turn))
            found[row].append(figures)
    progress("bench", rounds * len(rows), rounds * len(rows))
    sizes = _sizes(path)
    return [_summary(row, found[row], _agreement(masks, row), sizes.get(row), images) for row in rows]


def _fitting(path: Path) -> list[str]:
    packed, found = read_packed(path), list[str]()
    for row in ROWS:
        if problem := row_problem(row, packed, path):
            logger.warning("bench: row '%s' is left out: %s", row, problem)
        else:
            found.append(row)
    return found


def _run(row: str, path: Path, images: int, out: Path) -> tuple[dict[str, Any], list[Any]]:
    command = [sys.executable, "-m", "saqsam.bench.measure", row, str(path), str(images), str(out)]
    done = subprocess.run(command, env={**os.environ, **TUNED}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SaqsamError(f"bench, row '{row}': {last}")
    with np.load(f"{out}.npz") as arrays:
        masks = [arrays[name] for name in arrays.files]
    return json.loads(Path(f"{out}.json").read_text(encoding="utf-8")), masks


def _agreement(masks: dict[str, list[Any]], row: str) -> float | None:
    if "simulated" not in masks:
        return None
    ious: list[float] = []
    for own, other in zip(masks[row], masks["simulated"], strict=True):
        ious += mask_ious(*(torch.from_numpy(one)[:, None] for one in (own, other)))
    return float(np.mean(ious))


def _sizes(path: Path) -> dict[str, int]:
    """Bytes by row; of a row without its own file, those of its weights as float32."""
    packed = read_packed(path)
    floats = sum(4 * tensor.numel() for tensor in float_contents(packed).rest.values())
    small = path.stat().st_size
    return {
        "torch float": floats,
        "onnxruntime float": floats,
        "simulated": small,
        "integer": small,
        "native": small,
        "linear int8": small,
        "openvino float": floats,
        "openvino int8": small,
    }


def _summary(
    row: str, runs: list[dict[str, Any]], agreement: float | None, size: int | None, images: int
) -> BenchRow:
    first = 1 if images > 1 else 0  # the first image pays for warming up
    encoder = [times for run in runs for times in run["encoder"][first:]]
    decoder = [
        [seconds / count for seconds in times]
        for run in runs
        for times, count in zip(run["decoder"][first:], run["prompts"][first:], strict=True)
    ]
    peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
    return BenchRow(
        row=row,
        encoder_seconds=median(wall for wall, _ in encoder),
        encoder_cpu_seconds=median(cpu for _, cpu in encoder),
        decoder_seconds=median(wall for wall, _ in decoder),
        decoder_cpu_seconds=median(cpu for _, cpu in decoder),
        peak_bytes=max(peaks, default=None),
        model_bytes=size,
        agreement=agreement,
        images=images,
        rounds=len(runs),
    )
