"""Masks drawn over their image, and pictures set side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from saqsam.images.labels import Labels, wrapped

_SHORTEST = 384
"""Small images are enlarged so that their longest side has at least this many pixels."""
_OPACITY = 0.5
_GAP, _TITLE, _LINE = 8, 24, 17


def draw_masks(
    pixels: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    *,
    boxes: Any = None,
    points: Any = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """An image with its masks tinted and outlined, boxes framed and clicks dotted.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        masks: ``(P, H, W)`` bool; large ones are drawn first, so that small ones stay visible.
        boxes: ``(P, 4)`` XYXY in pixels of the image, NaN for an object without a box; or None.
        points: ``(P, K, 2)`` x, y in pixels of the image, NaN for no click; or None.
        labels: ``(P,)`` short texts, written at the boxes or masks as far as there is room; or None.

    Returns:
        An RGB picture of the image's size, or a whole multiple of it where the image is small.
    """
    factor = enlargement(pixels)
    canvas = enlarged(pixels, factor).astype(np.float32)
    colours = [colour_of(index) for index in range(len(masks))]
    for index in sorted(range(len(masks)), key=lambda one: -int(masks[one].sum())):
        mask = enlarged(masks[index], factor)
        canvas[mask] += _OPACITY * (np.array(colours[index], np.float32) - canvas[mask])
        canvas[mask & ~binary_erosion(mask, iterations=2)] = colours[index]
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for index, colour in enumerate(colours):
        box = _box_at(boxes, index)
        if box is not None:
            pen.rectangle([side * factor for side in box], outline=colour, width=1)
        for x, y in points[index] if points is not None else ():
            x, y = (float(x) + 0.5) * factor, (float(y) + 0.5) * factor
            if math.isnan(x):
                continue
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour, outline="white")
    if labels is not None:
        writing = Labels(picture)
        for index, colour in enumerate(colours):
            box = _box_at(boxes, index) or box_of(masks[index])
            writing.write(labels[index], [side * factor for side in box], colour)
    return picture


def _box_at(boxes: Any, index: int) -> tuple[float, ...] | None:
    """The box of an object, if it has one."""
    box = () if boxes is None else tuple(float(side) for side in boxes[index])
    return box if box and not math.isnan(box[0]) else None


def side_by_side(panels: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures in one row on white, each under its title, which takes as many lines as it needs."""
    texts = [wrapped(title, panel.width) for panel, title in zip(panels, titles, strict=True)]
    top = _TITLE + _LINE * (max(map(len, texts)) - 1)
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) + 1)
    height = max(panel.height for panel in panels) + top + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    left = _GAP
    for panel, lines in zip(panels, texts, strict=True):
        for number, line in enumerate(lines):
            pen.text((left, 4 + _LINE * number), line, fill="black", font=ImageFont.load_default(14))
        sheet.paste(panel, (left, top))
        left += panel.width + _GAP
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another on white, aligned at the left."""
    whole = Image.new("RGB", (max(one.width for one in sheets), sum(one.height for one in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def enlargement(pixels: npt.NDArray[Any]) -> int:
    """The whole factor by which a picture ``(H, W, ...)`` is enlarged; 1 where it is large enough."""
    longest = int(max(pixels.shape[:2]))
    return max(1, -(-_SHORTEST // longest))


def enlarged(pixels: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Every pixel of ``(H, W, ...)`` ``factor`` times in each direction."""
    return np.repeat(np.repeat(pixels, factor, 0), factor, 1)


def colour_of(index: int) -> tuple[int, int, int]:
    """Colours that stay far apart: hues at steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """``x0, y0, x1, y1`` around a mask ``(H, W)``; all 0 where it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
