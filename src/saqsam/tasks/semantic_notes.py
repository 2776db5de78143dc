"""Label maps that are read without a fault and cannot be meant so, as their confusion matrix shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_VOID = 255
"""The label that many sets give pixels without a class."""
_GAP = 5
"""So many unused labels below it make 255 a mark rather than the last of many classes."""


def label_notes(counts: npt.NDArray[np.int64]) -> Iterator[str]:
    """What looks wrong, one sentence each.

    Args:
        counts: ``(C, C)`` pixels by true and predicted label, ignored ones left out.
    """
    true = counts.sum(1)
    total = int(true.sum())
    if not total:
        yield "no pixel of the truth is counted: all are 0 or left out; is it the folder of label maps?"
        return
    if len(true) > _VOID and true[_VOID] and not true[_VOID - _GAP : _VOID].any():
        yield (
            f"label 255 is counted as a class, on {100 * true[_VOID] / total:.1f} % of the pixels: if it "
            "marks pixels without a class, pass --ignore-label 255"
        )
    usual = _hits(counts, 0)
    shifts = list(_shifted(counts, usual))
    yield from shifts
    if not usual.any() and not shifts:
        ours, theirs = (", ".join(map(str, np.flatnonzero(one)[:5])) for one in (counts.sum(0), true))
        yield (
            f"labels and truth agree on no pixel: labels there are {ours}, true ones {theirs}; are they of "
            "the same images and classes?"
        )


def _shifted(counts: npt.NDArray[np.int64], usual: npt.NDArray[np.float64]) -> Iterator[str]:
    for offset, word, remedy in (
        (-1, "low", "pass --reduce-zero-label if --labels counts classes from 0 and the truth from 1"),
        (1, "high", "lower the maps of --labels by one"),
    ):
        shifted = _hits(counts, offset)
        if (shifted >= 0.5).sum() >= 2 and shifted.mean() >= max(0.5, 2 * usual.mean()):
            yield (
                f"labels look one too {word}: shifted, they are right on {100 * shifted.mean():.0f} % of "
                f"each class, as they are on {100 * usual.mean():.0f} %; {remedy}"
            )


def _hits(counts: npt.NDArray[np.int64], offset: int) -> npt.NDArray[np.float64]:
    """Of each true class, the share of pixels whose predicted label is the true one plus ``offset``."""
    true = counts.sum(1)
    classes = np.flatnonzero(true)
    found = np.clip(classes + offset, 0, len(counts) - 1)
    hits = np.where(found == classes + offset, counts[classes, found], 0)
    shares: npt.NDArray[np.float64] = hits / true[classes] if len(classes) else np.zeros(1)
    return shares
