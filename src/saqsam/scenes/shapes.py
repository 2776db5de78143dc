"""Outlines of the eight object categories, drawn as anti-aliased coverage masks.

A shape is made around the origin with an outer radius of about 1 and is then turned, scaled and
drawn at three times the resolution, so that its edge carries fractional coverage as a photograph's
would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.float64]
SUPERSAMPLING = 3

CATEGORIES: tuple[str, ...] = (
    "circle",
    "ellipse",
    "polygon",
    "star",
    "ring",
    "rectangle",
    "blob",
    "glyph",
)
"""Category ``i + 1`` of a scene is ``CATEGORIES[i]``; 0 is background."""

_LETTERS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((-0.8, -0.8), (0.8, -0.8)), ((0.0, -0.8), (0.0, 0.8))),  # T
    (((-0.6, -0.8), (-0.6, 0.8), (0.6, 0.8)),),  # L
    (((-0.6, -0.8), (-0.6, 0.8)), ((0.6, -0.8), (0.6, 0.8)), ((-0.6, 0.0), (0.6, 0.0))),  # H
    (((-0.7, -0.7), (0.7, 0.7)), ((-0.7, 0.7), (0.7, -0.7))),  # X
    (((-0.8, 0.0), (0.8, 0.0)), ((0.0, -0.8), (0.0, 0.8))),  # plus
    (((-0.6, -0.8), (-0.6, 0.6), (0.6, 0.6), (0.6, -0.8)),),  # U
    (((-0.6, -0.8), (0.6, -0.8), (-0.6, 0.8), (0.6, 0.8)),),  # Z
    (((-0.7, -0.8), (0.0, 0.0), (0.7, -0.8)), ((0.0, 0.0), (0.0, 0.8))),  # Y
    (((0.6, -0.8), (-0.6, -0.8), (-0.6, 0.8), (0.6, 0.8)), ((-0.6, 0.0), (0.4, 0.0))),  # E
    (((-0.7, 0.8), (0.0, -0.8), (0.7, 0.8)), ((-0.35, 0.2), (0.35, 0.2))),  # A
)


@dataclass(frozen=True)
class Shape:
    """An outline around the origin, in units of the object's radius (y grows downwards).

    Attributes:
        outer: (N, 2) polygon that is filled, or None for a shape made of strokes.
        hole: (M, 2) polygon that is cut out of ``outer``, or None.
        strokes: polylines drawn with ``stroke_width``; empty for filled shapes.
        stroke_width: width of the strokes.
    """

    outer: Points | None
    hole: Points | None = None
    strokes: tuple[Points, ...] = ()
    stroke_width: float = 0.0

    def coverage(self, radius: float, margin: int) -> npt.NDArray[np.float32]:
        """Draw the shape; (S, S) float32 in [0, 1] with the origin in the middle of the patch.

        Args:
            radius: pixels that one unit of the outline stands for.
            margin: empty pixels to leave on every side.
        """
        side = 2 * (int(np.ceil(radius * 1.05)) + margin)
        canvas = Image.new("L", (side * SUPERSAMPLING,) * 2, 0)
        draw = ImageDraw.Draw(canvas)
        zoom, middle = radius * SUPERSAMPLING, side * SUPERSAMPLING / 2
        if self.outer is not None:
            draw.polygon(_flat(self.outer, zoom, middle), fill=255)
        if self.hole is not None:
            draw.polygon(_flat(self.hole, zoom, middle), fill=0)
        width = max(round(self.stroke_width * zoom), SUPERSAMPLING)
        for stroke in self.strokes:
            draw.line(_flat(stroke, zoom, middle), fill=255, width=width, joint="curve")
        small = canvas.reduce(SUPERSAMPLING)
        return np.asarray(small, dtype=np.float32) / np.float32(255.0)


def _flat(points: Points, zoom: float, middle: float) -> Any:
    return [tuple(point) for point in (points * zoom + middle).tolist()]


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _oval(width: float, height: float, corners: int = 72) -> Points:
    turn = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    return np.stack([width * np.cos(turn), height * np.sin(turn)], axis=1)


def _convex_polygon(rng: np.random.Generator) -> Points:
    corners = int(rng.integers(3, 8))
    gaps = rng.uniform(0.6, 1.4, corners)
    turn = np.cumsum(gaps) * (2 * np.pi / gaps.sum())
    height = rng.uniform(0.65, 1.0)
    return np.stack([np.cos(turn), height * np.sin(turn)], axis=1)


def _star(rng: np.random.Generator) -> Points:
    spikes = int(rng.integers(4, 9))
    turn = np.arange(2 * spikes) * (np.pi / spikes)
    reach = np.where(np.arange(2 * spikes) % 2 == 0, 1.0, rng.uniform(0.38, 0.62))
    return np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)


def _blob(rng: np.random.Generator) -> Points:
    turn = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    reach = np.ones_like(turn)
    for waves in range(2, 6):
        reach += rng.normal(0.0, 0.32 / waves) * np.cos(waves * turn + rng.uniform(0, 2 * np.pi))
    reach = np.clip(reach, 0.25, None)
    reach /= reach.max()
    return np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)


def _glyph(rng: np.random.Generator, angle: float) -> Shape:
    letter = _LETTERS[int(rng.integers(len(_LETTERS)))]
    squeeze = np.array([rng.uniform(0.75, 1.0), rng.uniform(0.85, 1.0)])
    strokes = tuple(_turned(np.array(line) * 0.95 * squeeze, angle) for line in letter)
    return Shape(None, strokes=strokes, stroke_width=float(rng.uniform(0.3, 0.5)))


def make_shape(rng: np.random.Generator, category: int) -> Shape:
    """Draw the parameters of one shape of a category.

    Args:
        rng: source of every random choice.
        category: 1 ... 8, a position in ``CATEGORIES`` plus one.
    """
    kind = CATEGORIES[category - 1]
    angle = float(rng.uniform(0, 2 * np.pi))
    if kind == "glyph":
        return _glyph(rng, angle)
    if kind == "ring":
        height, hole = rng.uniform(0.7, 1.0), rng.uniform(0.4, 0.68)
        outer = _oval(1.0, height)
        return Shape(_turned(outer, angle), hole=_turned(outer * hole, angle))
    if kind == "circle":
        outline = _oval(1.0, 1.0)
    elif kind == "ellipse":
        outline = _oval(1.0, rng.uniform(0.4, 0.8))
    elif kind == "rectangle":
        half = rng.uniform(0.25, 0.9)
        outline = np.array([[1, half], [-1, half], [-1, -half], [1, -half]]) / np.hypot(1.0, half)
    elif kind == "polygon":
        outline = _convex_polygon(rng)
    elif kind == "star":
        outline = _star(rng)
    else:
        outline = _blob(rng)
    return Shape(_turned(outline, angle))
