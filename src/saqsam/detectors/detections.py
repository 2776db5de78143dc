"""What a detector found on one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """N boxes of one image.

    Attributes:
        boxes: ``(N, 4)`` float32 ``x0, y0, x1, y1`` in pixels of the image as handed to the detector; they
            may reach past the image where the detector's own protocol does not clip.
        scores: ``(N,)`` float32 confidence, 0 to 1.
        labels: ``(N,)`` int64 index into the detector's ``class_names``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                "Detections need boxes (N, 4), scores (N,) and labels (N,), got "
                f"{tuple(self.boxes.shape)}, {tuple(self.scores.shape)}, {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def best(self, top_k: int | None = None, score_threshold: float | None = None) -> Detections:
        """By falling score, equal ones in their order; at most ``top_k``, none below the threshold."""
        order = torch.sort(self.scores, descending=True, stable=True).indices
        if score_threshold is not None:
            order = order[self.scores[order] >= score_threshold]
        return self[order[:top_k]]

    def __getitem__(self, rows: Tensor) -> Detections:
        """The given rows (indices or a mask), in the given order."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])

    def cpu(self) -> Detections:
        """The same on the CPU."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())


def top_query_classes(scores: Tensor, boxes: Tensor, count: int) -> Detections:
    """The ``count`` best pairs of query and class, as the DETR family reads its output.

    Args:
        scores: ``(Q, C)`` confidence of every class of every query; one query may win with several classes.
        boxes: ``(Q, 4)`` one box for each query.
        count: at most this many pairs are kept.
    """
    flat = scores.flatten()
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    classes = scores.shape[1]
    return Detections(boxes[order // classes], flat[order], order % classes)
