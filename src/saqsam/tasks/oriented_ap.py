"""Average precision of oriented boxes at an overlap of one half, by DOTA's rules.

As in PASCAL VOC: detections of a class in order of score; each takes the object it overlaps most on its
image. It is right if that overlap is above one half and the object was not taken before, wrong otherwise;
a detection of a difficult object is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saqsam.tasks.oriented_boxes import Corners, oriented_iou


@dataclass(frozen=True)
class OrientedDetection:
    """One oriented box that was found: ``corners`` ``(4, 2)`` in pixels of its image."""

    image_id: int
    category_id: int
    corners: Corners
    score: float


@dataclass(frozen=True)
class OrientedObject:
    """One annotated object; ``difficult`` ones are neither found nor missed."""

    category_id: int
    corners: Corners
    difficult: bool = False


@dataclass(frozen=True)
class ClassPrecision:
    """Figures of one class.

    Attributes:
        AP50: mean of the best precision at recalls 0, 0.1 ... 1, the VOC 2007 rule DOTA uses; -1 where the
            class has no object that counts.
        AP50_area: area under the precision-recall curve; -1 likewise.
        objects: that count, difficult ones left out.
        detections: of this class.
    """

    AP50: float
    AP50_area: float
    objects: int
    detections: int


def oriented_ap(
    objects: Mapping[int, Sequence[OrientedObject]],
    detections: Sequence[OrientedDetection],
    category_id: int,
    overlap: float = 0.5,
) -> ClassPrecision:
    """Average precision of one class.

    Args:
        objects: image id to its objects, of all classes.
        detections: of all classes and images.
        category_id: the class.
        overlap: a detection must overlap its object by more than this.
    """
    truth = {key: [one for one in group if one.category_id == category_id] for key, group in objects.items()}
    wanted = sum(not one.difficult for group in truth.values() for one in group)
    found = [one for one in detections if one.category_id == category_id]
    found.sort(key=lambda one: -one.score)
    if not wanted:
        return ClassPrecision(-1.0, -1.0, 0, len(found))
    verdicts = _verdicts(truth, found, overlap)
    right = np.cumsum(verdicts == 1)
    wrong = np.cumsum(verdicts == -1)
    recall, precision = right / wanted, right / np.maximum(right + wrong, 1)
    return ClassPrecision(eleven_point(recall, precision), area_under(recall, precision), wanted, len(found))


def _verdicts(
    truth: Mapping[int, Sequence[OrientedObject]], found: Sequence[OrientedDetection], overlap: float
) -> npt.NDArray[np.int64]:
    """1 for right, -1 for wrong, 0 for a difficult object."""
    taken = {key: [False] * len(group) for key, group in truth.items()}
    verdicts = np.full(len(found), -1, dtype=np.int64)
    for row, one in enumerate(found):
        group = truth.get(one.image_id, ())
        if not group:
            continue
        shares = oriented_iou(one.corners[None], np.stack([other.corners for other in group]))[0]
        best = int(np.argmax(shares))
        if shares[best] <= overlap:
            continue
        if group[best].difficult:
            verdicts[row] = 0
        elif not taken[one.image_id][best]:
            taken[one.image_id][best] = True
            verdicts[row] = 1
    return verdicts


def eleven_point(recall: npt.NDArray[np.float64], precision: npt.NDArray[np.float64]) -> float:
    """Mean over recalls 0, 0.1 ... 1 of the best precision at that recall or above (VOC 2007)."""
    best = [precision[recall >= step / 10] for step in range(11)]
    return float(np.mean([values.max() if len(values) else 0.0 for values in best]))


def area_under(recall: npt.NDArray[np.float64], precision: npt.NDArray[np.float64]) -> float:
    """Area under the curve of the best precision at each recall or above (VOC 2010)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * envelope).sum())
