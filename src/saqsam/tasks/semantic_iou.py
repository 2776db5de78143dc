"""Counting how label maps agree: confusion matrix, IoU of each class, pixel accuracy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saqsam.tasks.semantic_maps import MOST_CLASSES, LabelMap


class Confusion:
    """Pixels by true and predicted class, added up over images.

    Args:
        ignore_zero: leave out pixels whose true label is 0, as ADE20K does; a 0 predicted elsewhere is
            wrong.
        ignore: further labels to leave out so, such as 255 for pixels without a class.
    """

    def __init__(self, *, ignore_zero: bool = True, ignore: Collection[int] = ()) -> None:
        self.ignored = sorted({*ignore, *((0,) if ignore_zero else ())})
        self.counts = np.zeros((1, 1), dtype=np.int64)

    def add(self, truth: LabelMap, labels: LabelMap) -> None:
        """Count one image; both ``(H, W)``."""
        counted = ~np.isin(truth, self.ignored)
        true, found = truth[counted], labels[counted]
        size = max(len(self.counts), int(max(truth.max(), labels.max())) + 1)
        if size > len(self.counts):
            grown = np.zeros((size, size), dtype=np.int64)
            grown[: len(self.counts), : len(self.counts)] = self.counts
            self.counts = grown
        pairs = np.bincount(true * MOST_CLASSES + found, minlength=1)
        where = np.flatnonzero(pairs)
        self.counts[where // MOST_CLASSES, where % MOST_CLASSES] += pairs[where]

    def figures(self) -> SemanticFigures:
        """What the counts come to."""
        hit = np.diag(self.counts).astype(np.float64)
        true, found = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = true + found - hit
        iou = np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)
        iou[[label for label in self.ignored if label < len(iou)]] = np.nan
        pixels = int(true.sum())
        return SemanticFigures(
            mIoU=float(np.nanmean(iou)) if np.isfinite(iou).any() else -1.0,
            pixel_accuracy=float(hit.sum() / pixels) if pixels else -1.0,
            class_iou=iou,
            class_pixels=true,
        )


@dataclass(frozen=True)
class SemanticFigures:
    """Agreement of label maps with the truth.

    Attributes:
        mIoU: mean over classes that occur in truth or prediction, ignored ones left out; -1 if there are
            none.
        pixel_accuracy: share of counted pixels with the right class; -1 if there are none.
        class_iou: ``(C,)`` by class number; NaN for classes that do not occur, or are ignored.
        class_pixels: ``(C,)`` pixels of each true class.
    """

    mIoU: float
    pixel_accuracy: float
    class_iou: npt.NDArray[np.float64]
    class_pixels: npt.NDArray[np.int64]
