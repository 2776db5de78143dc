"""Paper for the page's figures: fixed margins, PNG in a data URI.

Margins are set, not solved for: matplotlib's automatic layouts draw everything twice and measure every label,
which takes most of a minute where there are hundreds of sites.
"""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from saqsam.visible import visible

WIDTH = 9.5
"""Inches; 1045 pixels, as wide as the page."""
_DPI = 110
_LONGEST = 90
"""Characters of a legend's entry."""


def canvas(height: float, *, left: float, top: float = 0.1, bottom: float = 0.5) -> tuple[Any, Any]:
    """A figure with one pair of axes, without pyplot: no state is shared and no display is needed.

    Args:
        height: of the axes, in inches, like the margins ``left``, ``top`` and ``bottom``.
    """
    from matplotlib.figure import Figure

    total = height + top + bottom
    figure = Figure(figsize=(WIDTH, total))
    place = (left / WIDTH, bottom / total, (WIDTH - left - 0.15) / WIDTH, height / total)
    return figure, figure.add_axes(place)


def legend(figure: Any, axes: Any, *, columns: int) -> None:
    """A legend in the upper margin, whose height is ``legend_height``."""
    lines, names = axes.get_legend_handles_labels()
    names = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in names]
    figure.legend(lines, names, loc="upper left", ncols=columns, fontsize=7, frameon=False)


def legend_height(entries: int, columns: int) -> float:
    """Inches of upper margin for a legend."""
    return 0.2 + 0.16 * -(-entries // columns)


def figure_uri(figure: Any) -> str:
    """A figure as a PNG in a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return _uri(buffer.getvalue())


def image_uri(picture: Image.Image) -> str:
    """A picture as a PNG in a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return _uri(buffer.getvalue())


def plain(text: str) -> str:
    """Text in which matplotlib finds no formula, and nothing that cannot be seen."""
    return visible(text, keep="\n").replace("$", r"\$")


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
