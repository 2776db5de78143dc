"""Figures with one line for each site or unit: focus IoU over clips, and losses over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from saqsam.images.canvas import canvas, figure_uri, legend, legend_height, plain
from saqsam.report.records import ClipCurve

_MARKS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)
_POINTS = 100
"""Points drawn of a unit's losses; each is the mean of the steps around it."""


def curves_plot(clips: Sequence[ClipCurve], percentiles: Sequence[float]) -> str:
    """Focus IoU over the percentile of the clip, one line for each site, a dot at the clip chosen.

    Args:
        clips: whose curves are as long as ``percentiles``; others show only their dot.
        percentiles: candidates, 0.5 to 1; p keeps the values between the quantiles 1 - p and p.
    """
    kinds = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(map(_kind, clips)))}
    figure, axes = canvas(4.0, left=0.6, top=legend_height(len(kinds), 4))
    drawn = set()
    for clip in clips:
        kind = _kind(clip)
        colour, label = kinds[kind], None if kind in drawn else plain(kind)
        drawn.add(kind)
        if len(clip.curve) == len(percentiles):
            places = [_place(one) for one in percentiles]
            axes.plot(places, clip.curve, linewidth=0.9, alpha=0.7, color=colour, label=label)
            label = None
        dot = [_place(clip.percentile)], [clip.reached]
        axes.plot(*dot, "o", ms=4.5, mec="white", mew=0.5, color=colour, label=label)
    values = [*percentiles, *(clip.percentile for clip in clips)]
    low, high = min(map(_place, values)), max(map(_place, values))
    marks = [one for one in _MARKS if low - 0.01 <= _place(one) <= high + 0.01]
    axes.set_xticks([_place(one) for one in marks], [f"{one:g}" for one in marks])
    axes.set_xlabel("percentile of the clip, no unit, spread towards 1; larger keeps more", fontsize=8)
    axes.set_ylabel("focus IoU with float attention, 0 to 1", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    legend(figure, axes, columns=4)
    return figure_uri(figure)


def losses_plot(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Loss of each unit over its steps, relative to its first ones, no unit.

    Args:
        losses: pairs of step and loss by unit, steps ascending, at least one.
    """
    figure, axes = canvas(3.6, left=0.6, top=legend_height(len(losses), 4))
    styles = ("-", "--", ":", "-.")
    for index, (unit, points) in enumerate(losses.items()):
        parts = np.array_split(np.array(points, dtype=np.float64), min(_POINTS, len(points)))
        steps, values = np.array([part.mean(0) for part in parts]).T
        first = values[0] if values[0] > 0 else 1.0
        line = {"color": f"C{index % 10}", "linestyle": styles[index // 10 % len(styles)]}
        axes.plot(steps, values / first, marker=".", ms=3, linewidth=1, label=plain(unit), **line)
    axes.axhline(1, color="0.5", linewidth=0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step of the unit's optimisation", fontsize=8)
    axes.set_ylabel("loss / first logged loss, no unit", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    legend(figure, axes, columns=4)
    return figure_uri(figure)


def _place(percentile: float) -> float:
    """Nines: 0.9, 0.99, 0.999 are equally far apart."""
    return -math.log10(min(1.0, max(1 - percentile, 1e-6)))


def _kind(clip: ClipCurve) -> str:
    """What the site is in its attention: the role, for inputs with the projection they enter."""
    path, _, role = clip.site.partition(":")
    return f"{role} of {path.rpartition('.')[2]}" if role == "input" else role
