"""Running a detector over many images, and writing what it found as a COCO-results file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saqsam.datasets.listing import ListedImage
from saqsam.detectors.detections import Detections
from saqsam.detectors.detector import Detector
from saqsam.errors import ImageError, NumericalError
from saqsam.files import atomic_write
from saqsam.torch_state import as_documented

BOX_DECIMALS = 3
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class DetectionRun:
    """Boxes of many images.

    Attributes:
        entries: ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; images in the order
            listed, the boxes of each by falling score.
        images: images that were read and detected on.
        failures: what went wrong with each of the others.
        without_area: boxes left out because nothing of them lies on their image; no prompt could be made.
        without_category: boxes left out because the data set has no category for their class.
        seconds: time spent in the detector, opening images included.
    """

    entries: tuple[dict[str, Any], ...]
    images: int
    failures: tuple[ImageError, ...]
    without_area: int
    without_category: int
    seconds: float


@as_documented
def detect_images(
    detector: Detector,
    images: Sequence[ListedImage],
    categories: Sequence[int | None],
    top_k: int | None = None,
    score_threshold: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DetectionRun:
    """Detect on every image; those that cannot be read are counted, and the run goes on.

    Args:
        detector: what to run.
        images: from ``listing``.
        categories: by label of the detector, the ``category_id`` to write; None leaves boxes of it out.
        top_k: keep at most this many boxes of each image, best first; None keeps the detector's own number.
        score_threshold: drop boxes with a lower score.
        progress: called with images done and in total.

    Raises:
        NumericalError: the detector gave a box or a score that is not finite.
    """
    entries: list[dict[str, Any]] = []
    failures: list[ImageError] = []
    outside = unnamed = 0
    start = time.perf_counter()
    for done, image in enumerate(images):
        progress(done, len(images))
        try:
            pixels = image.pixels()
        except ImageError as error:
            failures.append(error)
            continue
        found = detector.detect(pixels)
        _refuse_nan(found, detector.name, image.path)
        named = found[_has_category(found, categories)]
        unnamed += len(found) - len(named)
        kept = named.best(top_k, score_threshold)
        rows = _entries(kept, image.id, categories, pixels.shape[1], pixels.shape[0])
        outside += len(kept) - len(rows)
        entries += rows
    progress(len(images), len(images))
    seconds = time.perf_counter() - start
    read = len(images) - len(failures)
    return DetectionRun(tuple(entries), read, tuple(failures), outside, unnamed, seconds)


def write_detections(path: Path, run: DetectionRun) -> None:
    """Write the entries as JSON, one a line; the file appears whole or not at all."""
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in run.entries)
    with atomic_write(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")


def _refuse_nan(found: Detections, name: str, path: Path) -> None:
    finite = found.boxes.isfinite().all(1) & found.scores.isfinite()
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise NumericalError(name, f"{count} boxes of {path} are NaN or infinite; its weights may be damaged")


def _has_category(found: Detections, categories: Sequence[int | None]) -> Any:
    import torch

    known = torch.tensor([key is not None for key in categories], dtype=torch.bool)
    return known[found.labels]


def _entries(
    found: Detections, image_id: int, categories: Sequence[int | None], width: int, height: int
) -> list[dict[str, Any]]:
    """Entries of one image, without boxes of which nothing would remain as a prompt."""
    corners = found.boxes.double().numpy()
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(BOX_DECIMALS)
    rows = []
    for box, score, label, good in zip(
        sides.tolist(),
        found.scores.tolist(),
        found.labels.tolist(),
        _on_image(sides, width, height),
        strict=True,
    ):
        if good:
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": categories[label],
                    "bbox": box,
                    "score": round(score, SCORE_DECIMALS),
                }
            )
    return rows


def _on_image(sides: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Which rounded ``x, y, width, height`` still have an area once clipped to the image in float32."""
    limits = np.array([width, height])
    low = np.clip(sides[:, :2], 0, limits).astype(np.float32)
    high = np.clip(sides[:, :2] + sides[:, 2:], 0, limits).astype(np.float32)
    positive: npt.NDArray[np.bool_] = np.all((high > low) & (sides[:, 2:] > 0), axis=1)
    return positive
