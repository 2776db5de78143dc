"""The names under which ``saqsam detect`` and ``saqsam reproduce`` know the detectors."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from saqsam.detectors.detector import Detector
from saqsam.detectors.pretrained import PREFIX, load_pretrained
from saqsam.errors import UsageError
from saqsam.torch_state import as_documented

Loader = Callable[[Path, str], Detector]
"""From a published weight file and a device."""


def _loaders() -> dict[str, Loader]:
    from saqsam.detectors.dino import load_dino
    from saqsam.detectors.faster_rcnn import load_faster_rcnn
    from saqsam.detectors.h_detr import VARIANTS, load_h_detr
    from saqsam.detectors.yolox import load_yolox

    return {
        "yolox-l": load_yolox,
        "faster-rcnn-r50": load_faster_rcnn,
        **{name: partial(load_h_detr, name) for name in VARIANTS},
        "dino-focal-l": load_dino,
    }


def detector_names() -> tuple[str, ...]:
    """Detectors that are opened from their published weight file."""
    return tuple(_loaders())


@as_documented
def load_detector(name: str, weights: Path | None = None, device: str = "cpu") -> Detector:
    """Open a detector.

    Args:
        name: one of :func:`detector_names`, or ``hf:<directory or hub id>``.
        weights: the published file; needed for all but ``hf:``.
        device: where it computes.

    Raises:
        UsageError: no such detector, weights missing or not wanted, a device that cannot be used.
        CheckpointError: the weights are damaged, unsafe or another model's.
    """
    _check_device(device)
    if name.startswith(PREFIX):
        if weights is not None:
            raise UsageError(f"--weights {weights}: {name} brings its own weights; leave this option out")
        return load_pretrained(name, device)
    loader = _loaders().get(name)
    if loader is None:
        close = difflib.get_close_matches(name, detector_names(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(detector_names())}, hf:<model>"
        raise UsageError(f"--detector {name}: no such detector; {hint}")
    if weights is None:
        raise UsageError(
            f"--detector {name}: needs --weights FILE, its published weights; see docs/detectors.md"
        )
    return loader(weights, device)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device '{device}': cannot be used here; take cpu ({str(error).splitlines()[0]})"
        ) from error
