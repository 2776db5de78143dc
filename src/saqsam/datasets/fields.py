"""Small judgements on single JSON values: is this an id, a size, a finite number?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from saqsam.datasets.bad_entries import Problem, problem

LARGEST_ID = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""
_MOST_DIGITS = 32
_SLIVER = 16.0
"""Pixels between neighbouring float32 numbers at the far side of the widest image that is read."""


def is_id(value: Any, least: int = 0) -> TypeGuard[int]:
    """True for an integer that can name something; strings, floats and booleans cannot."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST_ID


def as_id(value: Any, least: int = 0) -> int | None:
    """The integer that ``value`` stands for, or None.

    Spreadsheets and table libraries write ids as ``1.0`` or ``"000001"``: one integer can be meant.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_ID:
        value = int(value)
    elif isinstance(value, str):
        text = value.strip().removesuffix(".0")
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            return None
        value = int(text)
    return value if is_id(value, least) else None


def is_finite(value: Any) -> TypeGuard[float]:
    """True for an integer or float that is finite as float64; booleans are not numbers here."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """True for a JSON object."""
    return isinstance(value, dict)


def shown(value: Any, longest: int = 60) -> str:
    """A value as it may stand in a message: its repr, cut short."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def id_problem(name: str, value: Any, least: int = 0) -> Problem:
    """Why ``value`` cannot be the id ``name``."""
    kind = {str: "a string", float: "not whole", bool: "a boolean", type(None): "null"}.get(type(value), "")
    reason = f" is {kind}" if kind else ""
    return problem(name + " {}" + f"{reason}: it must be an integer from {least} to 2^53 - 1", shown(value))


def missing_fields(entry: Mapping[str, Any], names: Sequence[str]) -> list[Problem]:
    """One problem for each of ``names`` that ``entry`` lacks."""
    return [problem(f"field {name!r} is missing") for name in names if name not in entry]


def box_problem(box: Any) -> Problem | None:
    """Why ``box`` is not a COCO box ``x, y, width, height`` of finite numbers, or None if it is."""
    if not isinstance(box, list) or len(box) != 4:
        return problem("bbox {} must be four numbers x, y, width, height", shown(box))
    if not all(is_finite(side) for side in box):
        return problem("bbox {} has an entry that is not a finite number", shown(box))
    if box[2] < 0 or box[3] < 0:
        return problem("bbox {} is inverted: width and height must not be negative", shown(box))
    return None


def lies_outside(box: Sequence[float], width: int, height: int) -> bool:
    """True where a sound box ``x, y, width, height`` shares no pixel with an image of that size."""
    x, y, across, down = box
    return x >= width or y >= height or x + across <= 0 or y + down <= 0


def has_area_inside(box: Sequence[float], width: int, height: int) -> bool:
    """True where a sound box that meets an image covers some of it in float32, as the model will see it."""
    x, y, across, down = box
    corners = (max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height))
    if min(corners[2] - corners[0], corners[3] - corners[1]) >= _SLIVER:
        return True
    x0, y0, x1, y1 = np.array(corners, np.float32)
    return bool(x1 > x0 and y1 > y0)


def reaches_far(box: Sequence[float], width: int, height: int) -> bool:
    """True where a sound box reaches past an image by more than the image's own side."""
    x, y, across, down = box
    return x < -width or y < -height or x + across > 2 * width or y + down > 2 * height


def reaches_past(box: Sequence[float], width: int, height: int) -> bool:
    """True where a sound box reaches past an image by more than a pixel, which is more than rounding."""
    x, y, across, down = box
    return x < -1 or y < -1 or x + across > width + 1 or y + down > height + 1


def shifted_ids(found: Iterable[Any], known: Iterable[int], noun: str) -> str | None:
    """Whether ids that are unknown to a set would be known if shifted by one, or look like places in a list.

    Returns:
        A sentence for a message, or None.
    """
    ids, wanted = {one for one in found if is_id(one)}, set(known)
    if ids and not ids <= wanted:
        for offset, words in ((1, "one more"), (-1, "one less")):
            if {one + offset for one in ids} <= wanted:
                return f"every {noun} would be known if it were {words}: shift them all by one"
        first = min(0 if 0 in ids else 1, *ids)
        if first >= 0 and max(ids) < len(wanted) + first:
            place = f"a place in a list, counted from {first}"
            return f"every {noun} looks like {place}: write the id that stands there"
    return None
