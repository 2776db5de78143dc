"""Figures as they are written everywhere: average precision in percent, overlaps as shares."""

from __future__ import annotations


def share(value: float | None, digits: int = 4) -> str:
    """A number between 0 and 1, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """An average precision in percent, or a dash; COCO's -1 means that there was nothing to find."""
    return "–" if value is None or value < 0 else f"{100 * value:.{digits}f}"
