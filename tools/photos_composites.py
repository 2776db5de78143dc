"""Composites: cut-outs of photographs' objects and textured shapes, pasted onto photographs."""

from __future__ import annotations

import numpy as np
from nano_data import SIDE
from photos_data import Photograph, View
from PIL import Image, ImageFilter

from saqsam.scenes.shapes import CATEGORIES, make_shape

SMALLEST = 7
"""Longer side of a pasted object in pixels."""


def cut_out(rng: np.random.Generator, photo: Photograph, number: int, side: float) -> Image.Image:
    """An object with its own pixels, turned, mirrored and scaled to ``side``; alpha is its mask."""
    x0, y0, x1, y1 = (int(v) for v in photo.objects[number].box)
    piece = photo.image.crop((x0, y0, x1, y1))
    piece.putalpha(Image.fromarray(photo.objects[number].cut.astype(np.uint8) * 255))
    stretch = np.exp(rng.normal(0, 0.1))
    scale = side / max(piece.size)
    size = (max(2, round(piece.width * scale * stretch)), max(2, round(piece.height * scale / stretch)))
    piece = piece.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        piece = piece.rotate(float(rng.normal(0, 25)), Image.Resampling.BILINEAR, expand=True)
    return piece


def textured(rng: np.random.Generator, photo: Photograph, side: float) -> Image.Image:
    """A generated shape filled with a piece of a photograph."""
    shape = make_shape(rng, 1 + int(rng.choice(len(CATEGORIES), p=_SHARES)))
    alpha = Image.fromarray((shape.coverage(side / 2, 1) * 255).astype(np.uint8))
    stretch = np.exp(rng.normal(0, 0.35))
    size = (
        max(3, round(alpha.width * min(stretch, 1.0))),
        max(3, round(alpha.height * min(1 / stretch, 1.0))),
    )
    alpha = alpha.resize(size, Image.Resampling.BILINEAR)
    alpha = alpha.rotate(float(rng.uniform(0, 360)), Image.Resampling.BILINEAR, expand=True)
    width, height = photo.image.size
    part = float(rng.uniform(0.15, 0.8)) * min(width, height)
    x, y = rng.uniform(0, width - part), rng.uniform(0, height - part)
    piece = photo.image.resize(alpha.size, Image.Resampling.BILINEAR, box=(x, y, x + part, y + part))
    piece.putalpha(alpha)
    return piece


_SHARES = [0.08, 0.12, 0.12, 0.08, 0.08, 0.12, 0.32, 0.08]
"""Of the shapes' categories: mostly blobs, whose outline is nobody's."""


def paste(rng: np.random.Generator, onto: View, piece: Image.Image, shade: bool) -> bool:
    """Put a piece into a view, somewhere; it hides what lies below it.  False if too little of it is inside.

    Args:
        shade: darken around the piece a little, as a soft shadow would.
    """
    height, width = onto.size
    alpha = piece.getchannel("A")
    if rng.random() < 0.5:
        alpha = alpha.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    left = int(rng.uniform(-0.2 * piece.width, max(width - 0.8 * piece.width, 1 - 0.2 * piece.width)))
    top = int(rng.uniform(-0.2 * piece.height, max(height - 0.8 * piece.height, 1 - 0.2 * piece.height)))
    layer = Image.new("L", (SIDE, SIDE))
    layer.paste(alpha, (left, top))
    cover = np.asarray(layer).copy()
    cover[height:], cover[:, width:] = 0, 0
    mask = cover > 127
    if mask.sum() < 48:
        return False
    colours = Image.new("RGB", (SIDE, SIDE))
    colours.paste(piece.convert("RGB"), (left, top))
    below = onto.pixels.astype(np.float32)
    if shade:
        shadow = layer.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 4))))
        shift = (int(rng.integers(-4, 5)), int(rng.integers(-1, 5)))
        dark = np.roll(np.asarray(shadow, np.float32), shift[::-1], (0, 1)) / 255
        below *= 1 - float(rng.uniform(0.1, 0.6)) * dark[..., None]
    weight = cover.astype(np.float32)[..., None] / 255
    gain = 1.0 if rng.random() < 0.5 else rng.uniform(0.7, 1.3, 3).astype(np.float32)
    above = np.asarray(colours, np.float32) * gain
    onto.pixels = np.clip(below + (above - below) * weight, 0, 255).astype(np.uint8)
    onto.pixels[height:], onto.pixels[:, width:] = 0, 0
    onto.labels[mask] = onto.labels.max() + 1
    hidden = []
    for other in onto.masks:
        before = int(other.sum())
        visible = other & ~mask
        hidden.append(visible if visible.sum() >= 0.4 * before else np.zeros_like(other))
    onto.masks = [*hidden, mask]
    return True


def decorate(
    rng: np.random.Generator, onto: View, photographs: list[Photograph], textures: list[Photograph]
) -> None:
    """Paste one to five pieces, of all sizes, onto a view."""
    for _ in range(1 + min(int(rng.geometric(0.45)) - 1, 4)):
        side = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(0.95 * SIDE))))
        photo = photographs[int(rng.integers(len(photographs)))]
        large = [i for i, mask in enumerate(photo.objects) if mask.area >= 100]
        if large and rng.random() < 0.6:
            piece = cut_out(rng, photo, large[int(rng.integers(len(large)))], side)
        else:
            piece = textured(rng, textures[int(rng.integers(len(textures)))], side)
        paste(rng, onto, piece, rng.random() < 0.4)
