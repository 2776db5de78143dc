"""Composing a scene: objects over a background, with shadows, shading, occlusion, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from saqsam.scenes.shapes import CATEGORIES, make_shape
from saqsam.scenes.textures import Pixels, make_texture

DENSITY = (4.0, 14.0)
"""Objects whose centre lies in 256 x 256 pixels: the least and the most."""
RADIUS = (14.0, 62.0)
"""Radius of an object in pixels, drawn log-uniformly."""
MARGIN = 16
"""Centres may lie this many pixels outside the image, so that edges cut objects."""
MIN_PIXELS, MIN_SHARE = 120, 0.30
"""An instance with fewer visible pixels, or a smaller share of its pixels, counts as background."""


@dataclass(frozen=True)
class Scene:
    """One generated image and everything that is known about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8; 0 is background, ``i + 1`` the visible pixels of instance ``i``.
        category_ids: one id of 1 ... 8 for each instance (see ``CATEGORIES``).
        boxes: (N, 4) float32, the visible pixels' tight boxes as x0, y0, x1, y1 in pixels; x1 and
            y1 lie one past the last pixel.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    category_ids: tuple[int, ...]
    boxes: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.category_ids)

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Visible pixels of instance ``index``; (H, W) bool."""
        visible: npt.NDArray[np.bool_] = self.labels == index + 1
        return visible

    @property
    def semantic(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 category id of every pixel, 0 for background."""
        return np.array([0, *self.category_ids], dtype=np.uint8)[self.labels]


def make_scene(
    rng: np.random.Generator,
    size: tuple[int, int] = (128, 128),
    *,
    density: tuple[float, float] = DENSITY,
    radius: tuple[float, float] = RADIUS,
) -> Scene:
    """Generate one scene; the same generator state gives the same scene.

    Args:
        rng: source of every random choice.
        size: height and width in pixels.
        density: least and most objects per 256 x 256 pixels.
        radius: least and largest object radius in pixels.
    """
    height, width = size
    canvas = make_texture(rng, height, width)
    area = (height + 2 * MARGIN) * (width + 2 * MARGIN) / 65536.0
    wanted = max(1, round(float(rng.uniform(*density)) * area))
    owner = np.zeros(size, dtype=np.uint8)
    categories, amodal = [], []
    for number in range(1, min(wanted, 254) + 1):
        category = int(rng.integers(1, len(CATEGORIES) + 1))
        reach = float(np.exp(rng.uniform(*np.log(radius))))
        covered = _add_object(rng, canvas, category, reach)
        owner[covered] = number
        categories.append(category)
        amodal.append(int(covered.sum()))
    labels, kept = _visible_instances(owner, amodal)
    boxes = np.array([_tight_box(labels == i + 1) for i in range(len(kept))], dtype=np.float32)
    return Scene(
        image=_photographed(rng, canvas),
        labels=labels,
        category_ids=tuple(categories[i] for i in kept),
        boxes=boxes.reshape(-1, 4),
    )


def _add_object(
    rng: np.random.Generator, canvas: Pixels, category: int, radius: float
) -> npt.NDArray[np.bool_]:
    """Paint one object onto ``canvas`` in place; return the (H, W) pixels it covers."""
    height, width = canvas.shape[:2]
    centre_x = rng.uniform(-MARGIN, width + MARGIN)
    centre_y = rng.uniform(-MARGIN, height + MARGIN)
    soften = float(rng.uniform(1.5, 5.0))
    coverage = make_shape(rng, category).coverage(radius, margin=int(np.ceil(3 * soften)) + 1)
    side = coverage.shape[0]
    left, top = round(centre_x - side / 2), round(centre_y - side / 2)
    if rng.random() < 0.6:
        shift = rng.integers(-8, 9, 2)
        blurred = Image.fromarray(coverage * 255.0).convert("L").filter(ImageFilter.GaussianBlur(soften))
        shade = np.asarray(blurred, dtype=np.float32) * np.float32(rng.uniform(0.2, 0.6) / 255.0)
        _blend(canvas, shade, np.zeros((side, side, 3), np.float32), left + shift[0], top + shift[1])
    surface = _surface(rng, coverage)
    _blend(canvas, coverage, surface, left, top)
    covered = np.zeros((height, width), dtype=bool)
    inside, patch = _overlap((height, width), side, left, top)
    covered[inside] = coverage[patch] > 0.5
    return covered


def _surface(rng: np.random.Generator, coverage: Pixels) -> Pixels:
    """Texture, shading and, now and then, an outline for one object; (S, S, 3)."""
    side = coverage.shape[0]
    surface = make_texture(rng, side, side)
    if rng.random() < 0.6:
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
        axis = np.linspace(-1, 1, side, dtype=np.float32)
        tilt = axis[:, None] * np.float32(np.sin(angle)) + axis[None, :] * np.float32(np.cos(angle))
        surface *= (1 + np.float32(strength) * tilt)[..., None]
    if rng.random() < 0.25:
        eroded = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(3))
        rim = coverage - np.asarray(eroded, dtype=np.float32) / 255
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        surface += rim[..., None] * (colour - surface)
    return surface


def _overlap(
    size: tuple[int, int], side: int, left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square patch and the image meet: slices into the image and into the patch."""
    y0, y1 = max(top, 0), max(min(top + side, size[0]), 0)
    x0, x1 = max(left, 0), max(min(left + side, size[1]), 0)
    y1, x1 = max(y0, y1), max(x0, x1)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _blend(canvas: Pixels, opacity: Pixels, colour: Pixels, left: int, top: int) -> None:
    inside, patch = _overlap((canvas.shape[0], canvas.shape[1]), opacity.shape[0], left, top)
    weight = opacity[patch][..., None]
    canvas[inside] += weight * (colour[patch] - canvas[inside])


def _visible_instances(
    owner: npt.NDArray[np.uint8], amodal: list[int]
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Renumber the instances that stay; the others become background."""
    visible = np.bincount(owner.ravel(), minlength=len(amodal) + 1)
    renumber = np.zeros(len(amodal) + 1, dtype=np.uint8)
    kept: list[int] = []
    for index, whole in enumerate(amodal):
        seen = int(visible[index + 1])
        if seen >= MIN_PIXELS and seen >= MIN_SHARE * whole:
            kept.append(index)
            renumber[index + 1] = len(kept)
    return renumber[owner], kept


def _tight_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _photographed(rng: np.random.Generator, canvas: Pixels) -> npt.NDArray[np.uint8]:
    """Uneven light, blur and sensor noise; (H, W, 3) uint8."""
    height, width = canvas.shape[:2]
    light = rng.uniform(0.7, 1.15, 4).astype(np.float32)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    left_light, right_light = (light[i] * (1 - down) + light[i + 1] * down for i in (0, 2))
    canvas = canvas * (left_light * (1 - right) + right_light * right)[..., None]
    if rng.random() < 0.4:
        picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
        soft = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
        canvas = np.asarray(soft, dtype=np.float32)
    if rng.random() < 0.7:
        noise = rng.standard_normal(canvas.shape, dtype=np.float32)
        canvas = canvas + np.float32(rng.uniform(1.0, 12.0)) * noise
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
