"""Other ways to read the four numbers of a box, and which of them meets annotated objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from saqsam.datasets.boxes import box_iou

Boxes = npt.NDArray[np.float64]
"""``(N, 4)``."""

MEETS = 0.5
"""IoU from which a box counts as the box of an object."""
MOST_OBJECTS = 500


@dataclass(frozen=True)
class ImageBoxes:
    """What one image is asked with, beside what is annotated on it.

    Attributes:
        size: (width, height) in pixels.
        given: ``(N, 4)`` XYXY in pixels as the file gives them, not clipped.
        categories: ``(N,)`` category ids.
        objects: ``(M, 4)`` XYXY around the annotated objects; empty where nothing is annotated.
        object_categories: ``(M,)``.
    """

    size: tuple[int, int]
    given: Boxes
    categories: npt.NDArray[np.int64]
    objects: Boxes
    object_categories: npt.NDArray[np.int64]

    def overlaps(self, boxes: Boxes) -> npt.NDArray[np.float64]:
        """IoU ``(N, M)`` of N XYXY boxes with the objects; 0 for inverted boxes."""
        return box_iou(torch.from_numpy(boxes), torch.from_numpy(self.objects)).numpy()


# The columns are what stands in the file, where x, y, width, height is expected.
_LAYOUTS: Mapping[str, Callable[[Boxes], Boxes]] = {
    "x, y, width, height": lambda b: np.stack([b[:, 0], b[:, 1], b[:, 0] + b[:, 2], b[:, 1] + b[:, 3]], 1),
    "x0, y0, x1, y1": lambda b: b,
    "centre x, centre y, width, height": lambda b: np.concatenate(
        [b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1
    ),
    "y0, x0, y1, x1": lambda b: b[:, [1, 0, 3, 2]],
    "y, x, height, width": lambda b: np.stack([b[:, 1], b[:, 0], b[:, 1] + b[:, 3], b[:, 0] + b[:, 2]], 1),
}
_UNITS = {"pixels": 0, "shares of the image's sides, 0..1": 1, "percent of its sides": 100, "0..1000": 1000}
_RESIZED = 1024
"""Longer side of the image that the official models see; boxes made on it are in its pixels."""


def readings(image: ImageBoxes) -> Iterator[tuple[str, Boxes]]:
    """Every way to read the boxes of an image, by name, as XYXY in pixels; the usual one comes first."""
    given = np.concatenate([image.given[:, :2], image.given[:, 2:] - image.given[:, :2]], 1)
    sides = np.tile(np.array(image.size, dtype=np.float64), 2)
    scales = {unit: sides / whole if whole else np.ones(4) for unit, whole in _UNITS.items()}
    scales[f"pixels of the image resized to {_RESIZED}"] = np.full(4, max(image.size) / _RESIZED)
    for unit, scale in scales.items():
        for layout, corners in _LAYOUTS.items():
            # Corners are scaled, not columns: those of some layouts are exchanged.
            yield f"{layout} in {unit}", corners(given) * scale


def sample(images: Sequence[ImageBoxes]) -> list[ImageBoxes]:
    """The first images that have boxes and objects, up to 500 objects: enough to tell a wrong reading."""
    chosen: list[ImageBoxes] = []
    count = 0
    for image in images:
        if len(image.given) and len(image.objects) and count < MOST_OBJECTS:
            chosen.append(image)
            count += len(image.objects)
    return chosen


def better_reading(images: Sequence[ImageBoxes]) -> tuple[str, float, float] | None:
    """The reading of boxes that meets objects where the usual one does not.

    Returns:
        Its name, the share of objects it meets and the share that the usual one meets; None where no other
        reading meets half of the objects and twice as many as the usual one.
    """
    chosen = sample(images)
    total = sum(len(image.objects) for image in chosen)
    if not total:
        return None
    met: dict[str, int] = {}
    overlap: dict[str, float] = {}
    for image in chosen:
        for name, boxes in readings(image):
            best = image.overlaps(boxes).max(0)
            met[name] = met.get(name, 0) + int((best >= MEETS).sum())
            overlap[name] = overlap.get(name, 0.0) + float(best.sum())
    usual = next(iter(met.values()))
    name = max(met, key=lambda one: (met[one], overlap[one]))  # readings that are alike meet alike
    if met[name] < max(0.5 * total, 2 * usual, 1):
        return None
    return name, met[name] / total, usual / total
