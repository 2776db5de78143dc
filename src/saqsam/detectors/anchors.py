"""Anchor boxes of a region proposal network, and boxes written as differences from others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saqsam.datasets.boxes import clip_boxes

RATIOS = (0.5, 1.0, 2.0)
ANCHOR_SCALE = 8.0
_LARGEST_STEP = abs(math.log(16 / 1000))


def anchors(rows: int, columns: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Anchors of one map, not rounded: area ``(8 stride)**2``, height over width .5, 1 and 2.

    Args:
        rows: height of the map in cells.
        columns: its width.
        stride: input pixels for each cell; the anchors of cell (x, y) are centred at ``(x, y) * stride``.
        device: where to make them.

    Returns:
        ``(rows * columns * 3, 4)`` corners, row by row, the ratios of a cell together.
    """
    roots = torch.tensor(RATIOS, device=device).sqrt()
    half = torch.stack([1 / roots, roots], dim=1) * (stride * ANCHOR_SCALE / 2)
    y, x = torch.meshgrid(
        torch.arange(rows, device=device) * stride,
        torch.arange(columns, device=device) * stride,
        indexing="ij",
    )
    centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).float()
    return torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4)


def apply_deltas(
    boxes: Tensor, deltas: Tensor, deviations: Sequence[float], width: float, height: float
) -> Tensor:
    """Boxes moved and resized by a network's answer, clipped to the image (Girshick, 2015).

    Args:
        boxes: ``(N, 4)`` corners.
        deltas: ``(N, 4)``: shift of the centre in box sides, logarithm of the growth of width and height.
        deviations: by which the four numbers are multiplied first. Growth is limited to 62.5-fold.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    scaled = deltas * deltas.new_tensor(deviations)
    sides = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + scaled[:, :2] * sides
    half = sides * scaled[:, 2:].clamp(-_LARGEST_STEP, _LARGEST_STEP).exp() / 2
    return clip_boxes(torch.cat([centre - half, centre + half], dim=1), width, height)
