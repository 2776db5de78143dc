"""Four-cornered boxes at any angle: from masks, their overlap, and which of them are duplicates.

Boxes are always four corners, never an angle: libraries disagree about angles, and versions of one library
among themselves. Overlap is measured between convex hulls, so a box whose corners come in crossing order
still means what its annotator meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely

from saqsam.datasets.masks import Mask
from saqsam.scenes.write import rotated_box

Corners = npt.NDArray[np.float64]
"""``(..., 4, 2)`` x, y in pixels; pixel (x, y) fills [x, x + 1] x [y, y + 1]."""


def box_corners(box: Sequence[float]) -> Corners:
    """The upright box ``x0, y0, x1, y1`` as ``(4, 2)`` corners."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def mask_corners(mask: Mask) -> Corners | None:
    """The smallest rectangle at any angle around a mask, ``(4, 2)``; None where it has no pixel."""
    return rotated_box(mask) if mask.any() else None


def polygon_area(polygon: Corners) -> float:
    """Area of the convex hull of ``(4, 2)`` corners in square pixels."""
    return float(shapely.MultiPoint(polygon).convex_hull.area)


def upright(polygons: Corners) -> Corners:
    """The upright boxes around ``(N, 4, 2)`` corners: ``(N, 4)`` ``x0, y0, x1, y1``."""
    return np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1)


def oriented_iou(boxes: Corners, others: Corners) -> npt.NDArray[np.float64]:
    """Overlap of each pair: ``(N, 4, 2)`` and ``(M, 4, 2)`` to ``(N, M)``.

    Only pairs whose upright boxes meet are intersected.
    """
    table = np.zeros((len(boxes), len(others)))
    if not table.size:
        return table
    here, there = _hulls(boxes), _hulls(others)
    rows, columns = np.nonzero(_upright_boxes_meet(upright(boxes), upright(others)))
    shared = shapely.area(shapely.intersection(here[rows], there[columns]))
    union = shapely.area(here)[rows] + shapely.area(there)[columns] - shared
    table[rows, columns] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return table


def oriented_nms(boxes: Corners, scores: npt.ArrayLike, threshold: float) -> list[int]:
    """Greedy suppression of boxes of one class on one image.

    Args:
        boxes: ``(N, 4, 2)``.
        scores: ``(N,)``.
        threshold: a box goes if its overlap with a better one that stays is above this.

    Returns:
        Rows that stay, by falling score; of equal scores the earlier row comes first.
    """
    waiting = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[oriented_iou(boxes[best : best + 1], boxes[waiting])[0] <= threshold]
    return kept


def _hulls(polygons: Corners) -> npt.NDArray[np.object_]:
    hulls: npt.NDArray[np.object_] = shapely.convex_hull(shapely.multipoints(polygons))
    return hulls


def _upright_boxes_meet(boxes: Corners, others: Corners) -> npt.NDArray[np.bool_]:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray((high > low).all(axis=2), dtype=np.bool_)
