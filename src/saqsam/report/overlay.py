"""Masks drawn over their image, and pictures set side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

_SHORTEST = 384
"""Small images are enlarged so that their longest side has at least this many pixels."""
_OPACITY = 0.5
_GAP, _TITLE = 8, 24


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
        boxes: ``(P, 4)`` XYXY in pixels of the image, or None.
        points: ``(P, K, 2)`` x, y in pixels of the image, or None.
        labels: ``(P,)`` short texts, written at the boxes or masks; or None.

    Returns:
        An RGB picture of the image's size, or a whole multiple of it where the image is small.
    """
    factor = max(1, -(-_SHORTEST // max(pixels.shape[:2])))
    canvas = np.repeat(np.repeat(pixels, factor, 0), factor, 1).astype(np.float32)
    colours = [colour_of(index) for index in range(len(masks))]
    for index in sorted(range(len(masks)), key=lambda one: -int(masks[one].sum())):
        mask = np.repeat(np.repeat(masks[index], factor, 0), factor, 1)
        canvas[mask] += _OPACITY * (np.array(colours[index], np.float32) - canvas[mask])
        canvas[mask & ~binary_erosion(mask, iterations=2)] = colours[index]
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for index, colour in enumerate(colours):
        if boxes is not None:
            pen.rectangle([float(side) * factor for side in boxes[index]], outline=colour, width=1)
        for x, y in points[index] if points is not None else ():
            x, y = (float(x) + 0.5) * factor, (float(y) + 0.5) * factor
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour, outline="white")
        if labels is not None:
            _write(pen, labels[index], _corner(index, masks, boxes), factor, colour)
    return picture


def side_by_side(panels: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures in one row on white, each under its title."""
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) + 1)
    height = max(panel.height for panel in panels) + _TITLE + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    left = _GAP
    for panel, title in zip(panels, titles, strict=True):
        pen.text((left, 4), title, fill="black", font=ImageFont.load_default(14))
        sheet.paste(panel, (left, _TITLE))
        left += panel.width + _GAP
    return sheet


def colour_of(index: int) -> tuple[int, int, int]:
    """Colours that stay far apart: hues at steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _corner(index: int, masks: npt.NDArray[np.bool_], boxes: Any) -> tuple[float, float]:
    if boxes is not None:
        return float(boxes[index][0]), float(boxes[index][1])
    rows, columns = np.nonzero(masks[index])
    return (float(columns.min()), float(rows.min())) if len(rows) else (0.0, 0.0)


def _write(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[float, float], factor: int, colour: tuple[int, int, int]
) -> None:
    """Text on black at a corner, moved as far as it takes to lie inside the picture."""
    font = ImageFont.load_default(12)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = pen.im.size
    x = max(-left, min(at[0] * factor + 2, width - 1 - right))
    y = max(-top, min(at[1] * factor + 1, height - 1 - bottom))
    pen.rectangle((x + left, y + top, x + right, y + bottom), fill="black")
    pen.text((x, y), text, fill=colour, font=font)
