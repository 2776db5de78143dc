"""Figures with one row for each site or layer: ranges and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saqsam.images.canvas import canvas, figure_uri, legend, legend_height, plain
from saqsam.report.records import Interval, RangeRow

_ROW = 0.125
"""Inches of a row; the labels of 240 rows still do not touch."""
_NAME = 76
"""Characters of a label; the left end of a longer name is cut off."""
_COLOURS = ("tab:blue", "tab:red", "tab:green", "tab:purple", "tab:orange", "tab:cyan")


def errors_plot(errors: Mapping[str, Mapping[str, float]]) -> str:
    """Relative error of each layer's output, one series of points for each model.

    Args:
        errors: by model, then by path of the layer; no unit. Layers without an error have no point.
    """
    paths = list(dict.fromkeys(path for seen in errors.values() for path in seen))
    figure, axes = _rows(paths, legend_height(len(errors), 1))
    for index, (model, seen) in enumerate(errors.items()):
        drawn = {path: error for path, error in seen.items() if error > 0}
        places, colour = [paths.index(path) for path in drawn], _COLOURS[index % len(_COLOURS)]
        axes.plot(list(drawn.values()), places, "o", ms=3.5, alpha=0.8, color=colour, label=plain(model))
    _decades(axes, [error for seen in errors.values() for error in seen.values() if error > 0])
    axes.set_xlabel("‖output - reference‖ / ‖reference‖, no unit, logarithmic", fontsize=8)
    legend(figure, axes, columns=1)
    return figure_uri(figure)


def ranges_plot(rows: Sequence[RangeRow]) -> str:
    """Range seen, range kept by clipping and range of the final grid of each site, in the tensor's units."""
    kinds: tuple[tuple[list[Interval | None], str, float, str], ...] = (
        ([row.seen for row in rows], "0.78", 5.5, "seen in calibration, before clipping"),
        ([row.clipped for row in rows], "tab:orange", 3.5, "after clipping (PCC)"),
        ([row.grid for row in rows], "tab:blue", 1.6, "final grid"),
    )
    ends = [abs(end) for intervals, *_ in kinds for pair in intervals if pair for end in pair if end]
    smallest = float(np.quantile(ends, 0.05)) if ends else 1.0
    figure, axes = _rows([row.site for row in rows], legend_height(3, 3))
    _two_sided(axes, smallest, max(ends, default=1.0))
    for intervals, colour, width, label in kinds:
        found = [(place, *pair) for place, pair in enumerate(intervals) if pair is not None]
        if found:
            axes.hlines(*zip(*found, strict=True), colors=colour, linewidth=width, label=label)
    axes.set_xlabel(
        f"value, in the tensor's own units; linear between ±{smallest:.1g}, logarithmic outside", fontsize=8
    )
    axes.axvline(0, color="0.5", linewidth=0.5)
    legend(figure, axes, columns=3)
    return figure_uri(figure)


def _rows(names: Sequence[str], top: float) -> tuple[Any, Any]:
    """Axes with a label to the left of each row, and the scale both above and below."""
    names = [name if len(name) <= _NAME else f"…{name[1 - _NAME :]}" for name in names]
    left = 0.2 + 0.047 * max(map(len, names), default=0)
    figure, axes = canvas(_ROW * max(8, len(names)), left=left, top=top + 0.2)
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.5, -0.5)
    beside = axes.get_yaxis_transform()
    for place, name in enumerate(names):
        axes.text(-0.006, place, plain(name), transform=beside, ha="right", va="center", fontsize=6)
    for place in range(0, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=0)
    axes.tick_params(labelsize=7, top=True, labeltop=True)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _decades(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis around positive values, with plain numbers at 1, 2 and 5 times powers of ten."""
    axes.set_xscale("log")
    low, high = min(values, default=0.1) / 1.2, max(values, default=1.0) * 1.2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) < 5 else (1,)
    marks = [step * 10.0**power for power in powers for step in steps]
    _marked(axes, [mark for mark in marks if low <= mark <= high])
    axes.set_xlim(low, high)


def _two_sided(axes: Any, linear: float, high: float) -> None:
    """A symmetric axis, linear between ``-linear`` and ``linear``, marked at powers of ten that have room."""
    axes.set_xscale("symlog", linthresh=linear)
    powers = range(math.ceil(math.log10(2 * linear)), math.ceil(math.log10(max(high, 2 * linear))) + 1)
    ends = [10.0**power for power in powers][:: 1 + len(powers) // 6]
    _marked(axes, [*(-end for end in reversed(ends)), 0.0, *ends])


def _marked(axes: Any, marks: Sequence[float]) -> None:
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.set_xticks([], minor=True)
