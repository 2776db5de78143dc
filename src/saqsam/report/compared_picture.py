"""One image as several models see it: truth, masks of each model, what only one has, and a close-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from saqsam.images.difference import Masks, draw_difference, overlaps
from saqsam.images.draw import box_of, draw_masks, side_by_side, stacked

_LONGEST = 1024
"""Larger images are made smaller: four of them stand in one row. The close-up keeps their pixels."""
_CLOSE, _DIFFERS = 0.4, 0.98
"""A close-up is drawn of an object at most this much of the image's longest side, with a lower IoU."""


@dataclass(frozen=True)
class Drawn:
    """What one panel shows.

    Attributes:
        title: stands above it.
        masks: ``(P, H, W)`` bool.
        boxes: ``(P, 4)`` XYXY in pixels, NaN for an object without a box; or None.
        points: ``(P, K, 2)`` x, y in pixels, NaN for no click; or None.
        labels: ``(P,)`` class and score, or None.
    """

    title: str
    masks: Masks
    boxes: Any = None
    points: Any = None
    labels: Sequence[str] | None = None


def compared_picture(
    pixels: npt.NDArray[np.uint8],
    models: Sequence[Drawn],
    truth: Drawn | None = None,
    *,
    close_up: bool = True,
) -> Image.Image:
    """Panels in a row: truth, the first model, and of each other its masks and its difference from the first.

    Where a small object differs, a second row shows it enlarged.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        models: their masks of the same prompts; the first is the one that others are compared with.
        truth: what is annotated, if it is to be shown.
        close_up: whether there may be a second row.
    """
    rows = [_row(*fitted(pixels, models, truth))]
    found = _close_up(pixels, models) if close_up else None
    if found is not None:
        index, place = found
        x0, y0, x1, y1 = place
        of = None if truth is None else _cut(truth, place)
        first, *_ = close = _row(pixels[y0:y1, x0:x1], [_cut(one, place, index) for one in models], of)
        close[0] = (first[0], f"close-up, {x1 - x0} x {y1 - y0} pixels at {x0}, {y0}: {first[1]}")
        rows.append(close)
    sheets = [side_by_side(*zip(*row, strict=True)) for row in rows]
    return stacked(sheets)


def _row(
    pixels: npt.NDArray[np.uint8], models: Sequence[Drawn], truth: Drawn | None
) -> list[tuple[Image.Image, str]]:
    """Pictures and their titles."""
    first = models[0]
    panels = [_panel(pixels, one) for one in ((first,) if truth is None else (truth, first))]
    for other in models[1:]:
        panels.append(_panel(pixels, other))
        names = (first.title, other.title)
        change = draw_difference(pixels, first.masks, other.masks, names)
        differs = np.any(first.masks ^ other.masks, axis=0).mean()
        title = f"difference of {names[0]} and {names[1]}: {100 * differs:.1f} % of the pixels"
        panels.append((change, title))
    return panels


def _panel(pixels: npt.NDArray[np.uint8], one: Drawn) -> tuple[Image.Image, str]:
    picture = draw_masks(pixels, one.masks, boxes=one.boxes, points=one.points, labels=one.labels)
    return picture, one.title


def _close_up(
    pixels: npt.NDArray[np.uint8], models: Sequence[Drawn]
) -> tuple[int, tuple[int, int, int, int]] | None:
    """The small object whose masks differ most, and where it lies, with half as much again around it."""
    height, width = pixels.shape[:2]
    found: list[tuple[float, int, tuple[float, float, float, float]]] = []
    first = models[0].masks
    for other in models[1:]:
        for index, score in enumerate(overlaps(first, other.masks)):
            box = box_of(first[index] | other.masks[index])
            if score < _DIFFERS and max(box[2] - box[0], box[3] - box[1]) <= _CLOSE * max(height, width):
                found.append((float(score), index, box))
    if not found:
        return None
    _, chosen, (x0, y0, x1, y1) = min(found)
    half = max(12.0, 0.75 * max(x1 - x0, y1 - y0))
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = max(0, round(x - half)), max(0, round(y - half))
    return chosen, (left, top, min(width, round(x + half)), min(height, round(y + half)))


def _cut(one: Drawn, place: tuple[int, int, int, int], index: int | None = None) -> Drawn:
    """All objects or one of them in a part of the image, in the frame of that part."""
    x0, y0, x1, y1 = place
    chosen = slice(None) if index is None else slice(index, index + 1)
    boxes = None if one.boxes is None else np.asarray(one.boxes)[chosen] - (x0, y0, x0, y0)
    points = None if one.points is None else np.asarray(one.points)[chosen] - (x0, y0)
    labels = None if one.labels is None or index is None else one.labels[chosen]
    return Drawn(one.title, one.masks[chosen, y0:y1, x0:x1], boxes, points, labels)


def fitted(
    pixels: npt.NDArray[np.uint8],
    models: Sequence[Drawn],
    truth: Drawn | None = None,
    *,
    longest: int = _LONGEST,
) -> tuple[npt.NDArray[np.uint8], list[Drawn], Drawn | None]:
    """Everything at a size of which several stand beside each other: ``longest`` pixels, or what it has."""
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels, list(models), truth
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def smaller(one: Drawn) -> Drawn:
        masks = np.zeros((len(one.masks), size[1], size[0]), bool)
        for index, mask in enumerate(one.masks):
            shrunk = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
            masks[index] = np.asarray(shrunk) >= 128
        boxes = None if one.boxes is None else np.asarray(one.boxes) * scale
        points = None if one.points is None else np.asarray(one.points) * scale
        return Drawn(one.title, masks, boxes, points, one.labels)

    picture = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return picture, [smaller(one) for one in models], None if truth is None else smaller(truth)
