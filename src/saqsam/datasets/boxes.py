"""Arithmetic on boxes: other parametrisations, overlap, non-maximum suppression. Pure PyTorch, any device."""

from __future__ import annotations

import torch
from torch import Tensor


def centre_to_corners(boxes: Tensor) -> Tensor:
    """``(..., 4)`` centre x, centre y, width, height to ``x0, y0, x1, y1``."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """``(N, 4)`` corners moved into an image of ``width`` x ``height`` pixels."""
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Overlap of each pair: ``(N, 4)`` and ``(M, 4)`` corners to ``(N, M)``; 0 where both are empty."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = _area(boxes)[:, None] + _area(others)[None] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(union))


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(N, 4)`` corners.
        scores: ``(N,)``.
        threshold: a box goes if its IoU with a better one that stays is above this.

    Returns:
        ``(K,)`` int64 rows that stay, by falling score; of equal scores the earlier row comes first.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    if len(order) == 0:
        return order
    overlaps = _overlap_table(boxes[order], threshold)
    # The greedy pass is sequential; on bits of the CPU it costs one vector operation for each box that stays.
    gone = torch.zeros(len(order), dtype=torch.bool)
    kept = []
    for row in range(len(order)):
        if not gone[row]:
            kept.append(row)
            gone |= overlaps[row]
    return order[torch.tensor(kept, device=order.device)]


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """:func:`nms` within each group (class or pyramid level) alone.

    Args:
        boxes: ``(N, 4)`` corners.
        scores: ``(N,)``.
        groups: ``(N,)`` int64. The usual trick, to shift each group by an offset, changes overlaps by its
            rounding and compares every pair; group by group nothing is rounded, and fewer are compared.
        threshold: as in :func:`nms`.

    Returns:
        ``(K,)`` int64 rows that stay, of all groups together by falling score, ties by row.
    """
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        kept.append(rows[nms(boxes[rows], scores[rows], threshold)])
    rows = torch.cat(kept).sort().values
    return rows[torch.sort(scores[rows], descending=True, stable=True).indices]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def _overlap_table(boxes: Tensor, threshold: float, rows: int = 512) -> Tensor:
    """``(N, N)`` bool on the CPU: IoU above the threshold; computed in slices of bounded memory."""
    return torch.cat([(box_iou(part, boxes) > threshold).cpu() for part in boxes.split(rows)])
