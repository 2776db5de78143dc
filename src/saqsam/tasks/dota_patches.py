"""Large aerial images in patches: where the patches lie, and in which of them each box is asked for.

DOTA's images reach 20,000 pixels, its objects are as small as 10: patches of 1024 pixels that overlap by 200
are usual. Every box is asked for once, in the patch where its middle is most central among those that hold
it whole, so that merging has no fragments to reconcile. A box that no patch holds whole gets a patch of its
own, which the predictor scales down like any large image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Window = tuple[int, int, int, int]
"""``x0, y0, x1, y1`` in whole pixels of the image."""


@dataclass(frozen=True)
class Patching:
    """How images are cut.

    Attributes:
        size: longest side of a patch in pixels; smaller images stay whole.
        overlap: of neighbouring patches in pixels, below ``size``.
    """

    size: int = 1024
    overlap: int = 200


def windows_of(height: int, width: int, patching: Patching) -> list[Window]:
    """Patches that cover an image, row by row; the last of a row or column is moved back inside."""
    rows, columns = _starts(height, patching), _starts(width, patching)
    size = patching.size
    return [(x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns]


def _starts(side: int, patching: Patching) -> list[int]:
    last = max(0, side - patching.size)
    step = patching.size - patching.overlap
    return [*range(0, last, step), last]


def assigned(
    boxes: npt.NDArray[np.float64], height: int, width: int, patching: Patching
) -> dict[Window, list[int]]:
    """Which boxes are asked for in which patch; patches without any are left out.

    Args:
        boxes: ``(N, 4)`` ``x0, y0, x1, y1`` inside the image.
        height: of the image in pixels.
        width: of the image in pixels.
        patching: how it is cut.
    """
    windows = windows_of(height, width, patching)
    places: dict[Window, list[int]] = {}
    for index, box in enumerate(boxes):
        places.setdefault(_place(box, windows, (width, height), patching.overlap), []).append(index)
    return places


def _place(
    box: npt.NDArray[np.float64], windows: Sequence[Window], image: tuple[int, int], margin: int
) -> Window:
    table = np.array(windows, dtype=np.float64)
    whole = (table[:, :2] <= box[:2]).all(axis=1) & (table[:, 2:] >= box[2:]).all(axis=1)
    if whole.any():
        middles = (table[:, :2] + table[:, 2:]) / 2
        distance = np.abs(middles - (box[:2] + box[2:]) / 2).max(axis=1)
        return windows[int(np.argmin(np.where(whole, distance, np.inf)))]
    low = np.maximum(np.floor(box[:2]) - margin, 0)
    high = np.minimum(np.ceil(box[2:]) + margin, image)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
