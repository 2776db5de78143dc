"""Rectangular parts of a picture in whole pixels: cut out, and masks of them put back in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Window = tuple[int, int, int, int]
"""``x0, y0, x1, y1`` in whole pixels; the last column and row are ``x1 - 1`` and ``y1 - 1``."""

Mask = npt.NDArray[np.bool_]


def cut(pixels: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    """The ``(h, w, 3)`` part of ``(H, W, 3)`` pixels, contiguous."""
    x0, y0, x1, y1 = window
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def paste(mask: Mask, window: Window, size: Sequence[int]) -> Mask:
    """A mask ``(h, w)`` of a window as the mask ``(H, W)`` of its picture, False outside.

    Args:
        mask: of the window's size.
        window: where it belongs.
        size: (height, width) of the picture.
    """
    if mask.shape == tuple(size):
        return mask
    x0, y0, x1, y1 = window
    whole = np.zeros(tuple(size), dtype=bool)
    whole[y0:y1, x0:x1] = mask
    return whole


def around(box: Sequence[float], factor: float, size: Sequence[int]) -> Window:
    """The window around a box, ``factor`` times its width and height, as far as the picture reaches.

    Args:
        box: ``x0, y0, x1, y1`` in pixels, on the picture.
        factor: at least 1.
        size: (height, width) of the picture.
    """
    height, width = size
    x0, x1 = _stretched(float(box[0]), float(box[2]), factor, width)
    y0, y1 = _stretched(float(box[1]), float(box[3]), factor, height)
    return x0, y0, x1, y1


def square_around(box: Sequence[float], factor: float, size: Sequence[int]) -> Window:
    """The square around a box, ``factor`` times its longer side, as far as the picture reaches; arguments as
    of :func:`around`."""
    x0, y0, x1, y1 = (float(side) for side in box)
    half = max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return around((x - half, y - half, x + half, y + half), factor, size)


def _stretched(low: float, high: float, factor: float, side: int) -> tuple[int, int]:
    more = (high - low) * (factor - 1) / 2
    start = min(max(0, math.floor(low - more)), side - 1)
    return start, max(start + 1, min(side, math.ceil(high + more)))


def spans(side: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """``count`` equally long stretches that overlap by ``overlap`` and cover ``side`` pixels."""
    length = math.ceil((overlap * (count - 1) + side) / count)
    starts = [(length - overlap) * index for index in range(count)]
    return [(start, min(start + length, side)) for start in starts]
