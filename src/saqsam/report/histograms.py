"""Small histograms of what quantizers see, with the range that their grid covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saqsam.images.canvas import canvas, figure_uri, plain

_COLUMNS, _BINS = 4, 60
_LINE = 46
"""Characters of a panel's width."""
_HIGH, _CELL = 0.55, 1.15
"""Height of a histogram as a share of its cell, and of a cell in inches."""


def histograms_plot(samples: Mapping[str, Sequence[Tensor]], kept: Mapping[str, tuple[float, float]]) -> str:
    """One panel for each site: counts on a logarithmic scale, the ends of the covered range dashed.

    All panels share one pair of axes without ticks: 24 pairs with their own take half a minute.

    Args:
        samples: values by site, any number of 1-D tensors; sites without a finite value are left out.
        kept: smallest and largest value of the grid by site.
    """
    values = {name: torch.cat(list(seen)).numpy() for name, seen in samples.items() if seen}
    values = {name: found[np.isfinite(found)] for name, found in values.items()}
    panels = [(name, found) for name, found in values.items() if len(found)]
    rows = -(-len(panels) // _COLUMNS)
    figure, axes = canvas(_CELL * max(rows, 1), left=0.15, bottom=0.1)
    axes.set_axis_off()
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(max(rows, 1), 0)
    for index, (name, found) in enumerate(panels):
        row, column = divmod(index, _COLUMNS)
        _panel(axes, column, row, name, found, kept[name])
    return figure_uri(figure)


def _panel(
    axes: Any, column: int, row: int, name: str, found: np.ndarray[Any, Any], kept: tuple[float, float]
) -> None:
    low, high = min(float(found.min()), kept[0]), max(float(found.max()), kept[1])
    if not low < high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(found, _BINS, range=(low, high))
    heights = _HIGH * np.log1p(counts) / np.log1p(counts.max())
    base, width = row + 0.85, 0.92

    def across(value: Any) -> Any:
        return column + 0.02 + width * (value - low) / (high - low)

    axes.stairs(base - heights, across(edges), baseline=base, fill=True, color="0.6")
    axes.hlines(base, column + 0.02, column + 0.02 + width, color="0.4", linewidth=0.6)
    axes.vlines(
        [across(end) for end in kept], base - _HIGH, base, color="tab:blue", linestyle="--", linewidth=1
    )
    axes.text(column + 0.02, base - _HIGH - 0.03, plain(_wrapped(name)), fontsize=5.5, va="bottom")
    for value, side in ((low, "left"), (high, "right")):
        axes.text(across(value), base + 0.02, f"{value:.3g}", fontsize=5.5, ha=side, va="top")
    axes.text(
        column + 0.48,
        base + 0.02,
        f"highest bin {counts.max()} of {len(found)}",
        fontsize=5,
        color="0.4",
        ha="center",
        va="top",
    )


def _wrapped(name: str) -> str:
    """A name in at most two lines, broken after a dot or colon; what comes before is cut off."""
    if len(name) <= _LINE:
        return name
    at = 1 + max(name.rfind(mark, 0, _LINE) for mark in ".:")
    rest = name[at:]
    return f"{name[:at]}\n{rest}" if at > 0 and len(rest) <= _LINE else f"…{name[1 - _LINE :]}"
