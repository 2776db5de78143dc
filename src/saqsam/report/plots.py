"""Figures of the page, each an SVG or PNG as a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

_WIDTH = 9.0
"""Inches."""


def image_uri(picture: Image.Image) -> str:
    """A picture as a PNG in a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return _uri(buffer.getvalue())


def errors_plot(errors: Mapping[str, Mapping[str, float]]) -> str:
    """Relative error of each layer's output, one series of points for each model; one row for each layer."""
    paths = list(dict.fromkeys(path for seen in errors.values() for path in seen))
    figure, axes = _figure(max(2.5, 0.16 * len(paths) + 1))
    for model, seen in errors.items():
        axes.plot(list(seen.values()), [paths.index(path) for path in seen], "o", ms=4, label=_plain(model))
    axes.set_yticks(range(len(paths)), [_plain(path) for path in paths], fontsize=6)
    axes.set_ylim(len(paths) - 0.5, -0.5)
    axes.set_xlabel("relative error of the layer's output against float (2-norm)")
    axes.grid(alpha=0.3)
    return _finish(figure, axes)


def ranges_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Range seen (grey) and range the grid covers (blue) of each site, on a symmetric logarithmic axis."""
    figure, axes = _figure(max(2.5, 0.16 * len(rows) + 1))
    places = range(len(rows))
    for key, colour, width, label in (
        ("seen", "0.75", 5, "seen"),
        ("kept", "tab:blue", 2, "covered by grid"),
    ):
        lows, highs = [row[key][0] for row in rows], [row[key][1] for row in rows]
        axes.hlines(places, lows, highs, colors=colour, linewidth=width, label=label)
    axes.set_yticks(places, [_plain(row["site"]) for row in rows], fontsize=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlabel("value (linear between -1 and 1, logarithmic outside)")
    axes.grid(alpha=0.3)
    return _finish(figure, axes)


def curves_plot(clips: Sequence[Mapping[str, Any]]) -> str:
    """Focus IoU of every candidate clip, one thin line for each site, the chosen candidate dotted."""
    figure, axes = _figure(4)
    for clip in clips:
        curve = clip["curve"]
        best = max(range(len(curve)), key=curve.__getitem__)
        (line,) = axes.plot(curve, linewidth=0.8, alpha=0.7)
        axes.plot([best], [curve[best]], "o", ms=4, color=line.get_color())
    axes.set_xlabel("candidate, in the order of the recipe's percentiles")
    axes.set_ylabel("focus IoU with float attention")
    axes.grid(alpha=0.3)
    return _finish(figure, axes, legend=False)


def losses_plot(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Loss of each unit relative to its first logged one, over its steps."""
    figure, axes = _figure(4 + 0.05 * len(losses))
    for unit, points in losses.items():
        first = points[0][1] or 1.0
        steps, values = [step for step, _ in points], [loss / first for _, loss in points]
        axes.plot(steps, values, marker=".", linewidth=1, label=_plain(unit))
    axes.set_xlabel("step")
    axes.set_ylabel("loss / first logged loss")
    axes.grid(alpha=0.3)
    return _finish(figure, axes)


def _figure(height: float) -> tuple[Any, Any]:
    """A figure without pyplot, so that no state is shared and no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: Any, axes: Any, *, legend: bool = True) -> str:
    if legend:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _uri(buffer.getvalue())


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
