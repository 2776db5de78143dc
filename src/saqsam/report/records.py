"""What a packed file's records say, read with care: whoever wrote the file may have put anything there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]


@dataclass(frozen=True)
class RangeRow:
    """One site: smallest and largest value seen, kept by clipping (None: not clipped), and of its grid."""

    site: str
    seen: Interval | None
    clipped: Interval | None
    grid: Interval


@dataclass(frozen=True)
class ClipCurve:
    """One site clipped by attention focus.

    Attributes:
        site: its name, ``path:role``.
        curve: focus IoU of every candidate, in the order of the recipe's percentiles.
        percentile: of the clip chosen.
        reached: focus IoU with the clip chosen; not on the curve where both ends were refined.
    """

    site: str
    curve: tuple[float, ...]
    percentile: float
    reached: float


def range_rows(facts: Mapping[str, Any]) -> list[RangeRow]:
    """Ranges of every quantized site, from ``Sam.inspect()``."""
    records = facts["records"]
    seen = {site: _interval(one, "low", "high") for site, one in _mapping(records.get("ranges")).items()}
    clipped = {}
    for one in _entries(records.get("clips")):
        seen[str(one.get("site"))] = _interval(one, "low", "high")
        clipped[str(one.get("site"))] = _interval(one, "clip_low", "clip_high")
    names = {f"{one['path']}:{one['role']}": (one["min"], one["max"]) for one in facts["sites"]}
    return [RangeRow(site, seen.get(site), clipped.get(site), grid) for site, grid in names.items()]


def clip_curves(facts: Mapping[str, Any]) -> list[ClipCurve]:
    """What clipping by attention focus tried; entries that are not as it writes them are left out."""
    found = []
    for one in _entries(facts["records"].get("clips")):
        curve = one.get("curve")
        if not isinstance(curve, list) or not curve or not all(map(_number, curve)):
            continue
        if _number(one.get("percentile")) and _number(one.get("iou_after")):
            chosen, reached = float(one["percentile"]), float(one["iou_after"])
            found.append(ClipCurve(str(one.get("site")), tuple(map(float, curve)), chosen, reached))
    return found


def _interval(entry: Any, low: str, high: str) -> Interval | None:
    found = _mapping(entry)
    known = _number(found.get(low)) and _number(found.get(high))
    return (float(found[low]), float(found[high])) if known else None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> Sequence[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
