"""The 80 categories of COCO: their ids, which run from 1 to 90 with gaps, and other names they go by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from saqsam.errors import UsageError

COCO_CATEGORIES: Mapping[int, str] = MappingProxyType(
    {
        1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
        8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
        14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
        21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
        28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
        36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
        41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
        47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
        54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
        60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
        67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
        76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
        82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
        89: "hair drier", 90: "toothbrush",
    }
)  # fmt: skip
"""Id to name, as in ``instances_val2017.json``."""

COCO_NAMES: tuple[str, ...] = tuple(COCO_CATEGORIES.values())
"""Names by contiguous label, 0 to 79."""

COCO_IDS: tuple[int, ...] = tuple(COCO_CATEGORIES)
"""Ids by contiguous label, 0 to 79."""

COCO_LOGITS = 91
"""Outputs of a detector that numbers its classes by COCO id: 0 to 90, of which 80 mean something."""

# Pascal VOC's words, in which several detectors trained on COCO still speak, and variants in spelling.
_ALIASES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "tv monitor": "tv",
    "television": "tv",
    "hair dryer": "hair drier",
    "doughnut": "donut",
    "mobile phone": "cell phone",
}


def plain_name(name: str) -> str:
    """A category's name as it is compared: lower case, single spaces, aliases resolved."""
    words = re.sub(r"[\s_-]+", " ", name.strip().casefold())
    return _ALIASES.get(words, words)


def category_ids(class_names: Sequence[str], categories: Mapping[int, str], where: str) -> list[int | None]:
    """The category that each class of a detector means, found by name.

    Args:
        class_names: by label.
        categories: id to name, of the data set.
        where: the data set's file, for the message.

    Returns:
        By label: an id, or None where the data set has no such category.

    Raises:
        UsageError: no class at all is a category of the data set.
    """
    by_name = {plain_name(name): key for key, name in categories.items()}
    found = [by_name.get(plain_name(name)) for name in class_names]
    if all(key is None for key in found):
        raise UsageError(
            f"{where}: none of its categories ({_some(list(categories.values()))}) is a class of the "
            f"detector ({_some(class_names)}); use a detector of these categories"
        )
    return found


def default_category_ids(class_names: Sequence[str]) -> list[int | None]:
    """Ids where there is no annotation file: COCO's for COCO's names, else the label counted from 1."""
    by_name = {plain_name(name): key for key, name in COCO_CATEGORIES.items()}
    named = [name for name in class_names if is_a_class(name)]
    if named and all(plain_name(name) in by_name for name in named):
        return [by_name.get(plain_name(name)) for name in class_names]
    return [label + 1 if is_a_class(name) else None for label, name in enumerate(class_names)]


def is_a_class(name: str) -> bool:
    """False for the fillers with which 91-way detectors name their unused outputs."""
    return plain_name(name) not in ("", "n/a", "background", "no object")


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
