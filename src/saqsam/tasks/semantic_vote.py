"""Masks without classes and classes without edges, put together by majority vote.

Semantic Segment Anything (Chen et al. 2023): each mask of everything mode takes the class that most of its
pixels have in a semantic segmenter's map; small masks are laid over large ones, and pixels under no mask
keep their class.
"""

from __future__ import annotations

import numpy as np

from saqsam.everything import Everything
from saqsam.tasks.semantic_maps import LabelMap


def refined(labels: LabelMap, found: Everything) -> LabelMap:
    """A label map whose edges are those of masks.

    Args:
        labels: ``(H, W)`` of the segmenter; every vote is taken on it, whatever was laid over it already.
        found: masks of the same image. Laid by falling area; of equally large ones the later lies above.

    Returns:
        A new ``(H, W)`` map. Of classes with equally many pixels the lowest number wins.
    """
    result = labels.copy()
    for record in sorted(found.records, key=lambda one: -one.area):
        mask = record.mask()
        if mask.any():
            result[mask] = np.bincount(labels[mask]).argmax()
    return result
