"""The judgements that everything mode passes on masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import label
from torch import Tensor

from saqsam.datasets.masks import Mask

EDGE_TOLERANCE = 20
"""Pixels; as published."""

Boxes = npt.NDArray[np.int64]


def stability_scores(logits: Tensor, offset: float) -> Tensor:
    """How little a mask depends on where its logits are cut.

    Args:
        logits: ``(K, H, W)`` at the size of the mask.
        offset: the mask cut at ``+offset`` lies within the one cut at ``-offset``, so their IoU is a
            quotient of two areas.

    Returns:
        ``(K,)`` from 0 to 1; NaN where nothing lies above ``-offset``.
    """
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer


def extents(masks: Tensor) -> Tensor:
    """First and last column and row of masks ``(K, H, W)``: ``(K, 4)`` int64 ``x0, y0, x1, y1``.

    The last ones belong to the mask: published mask generators compare boxes in this form, one pixel
    smaller than COCO's. All 0 for a mask without a pixel.
    """
    if not len(masks):
        return torch.zeros((0, 4), dtype=torch.int64, device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    x0, x1 = _first_and_last(columns)
    y0, y1 = _first_and_last(rows)
    return torch.stack([x0, y0, x1, y1], dim=1) * columns.any(1, keepdim=True)


def _first_and_last(hit: Tensor) -> tuple[Tensor, Tensor]:
    values = hit.to(torch.uint8)
    return values.argmax(1), hit.shape[1] - 1 - values.flip(1).argmax(1)


def touches_crop_edge(boxes: Boxes, crop: tuple[int, int, int, int], image: tuple[int, int]) -> Mask:
    """Masks that a crop cut off: they end near its edge, where the image goes on.

    Args:
        boxes: ``(K, 4)`` from :func:`extents`, in pixels of the image.
        crop: ``x0, y0, x1, y1``.
        image: (height, width).

    Returns:
        ``(K,)`` bool.
    """
    height, width = image
    near_crop = np.abs(boxes - np.array(crop)) <= EDGE_TOLERANCE
    near_image = np.abs(boxes - np.array([0, 0, width, height])) <= EDGE_TOLERANCE
    touching: Mask = (near_crop & ~near_image).any(axis=1)
    return touching


def without_small_regions(mask: Mask, least: int) -> tuple[Mask, bool]:
    """Holes and islands of fewer than ``least`` pixels removed.

    Regions are joined by sides and corners. Holes are filled first. Where every island is too small, the
    largest stays.

    Args:
        mask: ``(H, W)``.
        least: in pixels.

    Returns:
        The mask, and whether anything changed.
    """
    filled = mask | _small(~mask, least)
    islands = _small(filled, least)
    if islands.any() and not (filled & ~islands).any():
        islands = filled & ~_largest(filled)
    cleaned = filled & ~islands
    return cleaned, bool((cleaned != mask).any())


def _regions(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The number of its region at each pixel, 0 outside; and the size of each region, from number 0 on."""
    numbers, count = label(mask, structure=np.ones((3, 3), dtype=bool))
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)


def _small(mask: Mask, least: int) -> Mask:
    numbers, sizes = _regions(mask)
    small = sizes < least
    small[0] = False
    chosen: Mask = small[numbers]
    return chosen


def _largest(mask: Mask) -> Mask:
    numbers, sizes = _regions(mask)
    chosen: Mask = numbers == 1 + int(np.argmax(sizes[1:]))
    return chosen
