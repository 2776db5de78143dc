"""RoIAlign (He et al., "Mask R-CNN", 2017) in pure PyTorch, with mmdet's settings.

A box is cut into cells; a cell's value is the mean of bilinear samples on an even grid inside it. Pixel
centres lie at half integers (``aligned``). The number of samples adapts to the box: one for each whole or
partial pixel that a cell spans. Samples more than a pixel outside the map count as 0, nearer ones are moved
onto it.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ELEMENTS = 1 << 24  # of one intermediate block; 64 MB


def roi_align(features: Tensor, boxes: Tensor, scale: float, cells: int) -> Tensor:
    """Values of each box on one map.

    Bilinear weights separate into rows and columns, so a cell is a weighted sum of few rows and columns of
    the map: two small matrix products for each box, whatever its number of samples.

    Args:
        features: ``(C, h, w)``.
        boxes: ``(N, 4)`` corners in input pixels.
        scale: map cells for each input pixel, such as 1/8.
        cells: the result is ``cells`` x ``cells`` for each box.

    Returns:
        ``(N, C, cells, cells)``.
    """
    channels, height, width = features.shape
    if len(boxes) == 0:
        return features.new_zeros((0, channels, cells, cells))
    corners = boxes * scale - 0.5
    rows = axis_weights(corners[:, 1], corners[:, 3], height, cells)
    columns = axis_weights(corners[:, 0], corners[:, 2], width, cells)
    step = max(1, MAX_ELEMENTS // (channels * height * cells))
    parts = []
    for some_rows, some_columns in zip(rows.split(step), columns.split(step), strict=True):
        count = len(some_rows)
        # (h C, w) x (w, n cells): every box's columns at once, then each box's rows.
        across = features.transpose(0, 1).reshape(-1, width) @ some_columns.reshape(-1, width).T
        across = across.reshape(height, channels, count, cells).permute(2, 0, 1, 3)
        found = torch.bmm(some_rows, across.reshape(count, height, channels * cells))
        parts.append(found.reshape(count, cells, channels, cells).transpose(1, 2))
    return torch.cat(parts)


def axis_weights(low: Tensor, high: Tensor, size: int, cells: int) -> Tensor:
    """How much each row (or column) of a map counts in each cell of each box.

    Args:
        low: ``(N,)`` where the boxes begin, in map cells, centres at whole numbers.
        high: ``(N,)`` where they end.
        size: rows of the map.
        cells: cells of each box along this axis.

    Returns:
        ``(N, cells, size)``; the weights of a cell sum to at most 1.
    """
    bin_size = (high - low) / cells
    counts = bin_size.ceil().clamp(min=0)  # a box turned inside out has no samples, and value 0
    most = int(counts.max())
    weights = low.new_zeros((len(low), cells, size))
    steps = torch.arange(most, device=low.device)
    cell = torch.arange(cells, device=low.device)
    # (N, cells, most): position of every sample, and whether this box has it
    share = (steps + 0.5) / counts.clamp(min=1)[:, None]
    position = low[:, None, None] + (cell[:, None] + share[:, None, :]) * bin_size[:, None, None]
    valid = (steps < counts[:, None])[:, None] & (position >= -1) & (position <= size)
    position = position.clamp(min=0)
    below = position.floor().long().clamp(max=size - 1)
    above = (below + 1).clamp(max=size - 1)
    part = torch.where(below == size - 1, torch.zeros_like(position), position - below)
    amount = valid / counts.clamp(min=1)[:, None, None]
    weights.scatter_add_(2, below, (1 - part) * amount)
    weights.scatter_add_(2, above, part * amount)
    return weights
