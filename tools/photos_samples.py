"""Training samples for ``small``, made when needed: views of photographs, composites, scenes; prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nano_data
import numpy as np
from nano_data import SIDE, SceneCache, click_in, jittered, normalised, tight_box
from photos_composites import decorate
from photos_data import (
    Photograph,
    View,
    anywhere,
    around,
    load_backgrounds,
    load_photographs,
    overlapping,
    view,
    whole,
)
from PIL import Image, ImageFilter

SMALLEST_AREA = 48
"""Pixels of an object, once scaled, to be prompted for."""
EXTRA = 3
"""Further clicks that are drawn for every prompt."""


@dataclass(frozen=True)
class Sources:
    """All that samples are made of."""

    photographs: list[Photograph]
    backgrounds: list[Photograph]
    scenes: SceneCache
    pictures: list[Photograph] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pictures", [*self.photographs, *self.backgrounds])


def load_sources(photos: Path, scenes: Path) -> Sources:
    """Photographs of a COCO-format folder that are not held out, those without masks, and cached scenes."""
    photographs = [photo for photo in load_photographs(photos) if photo.objects]
    backgrounds = load_backgrounds(photos) if (photos / "backgrounds.json").exists() else []
    return Sources(photographs, backgrounds, SceneCache(scenes))


class Sample(NamedTuple):
    """One image with K prompts: the first half is prompted with boxes, the second with clicks."""

    pixels: np.ndarray  # (3, 128, 128) float32, normalised, zero where padded
    labels: np.ndarray  # (128, 128) int64, 0 background or unknown
    extents: np.ndarray  # (256, 4) float32, see nano_data.Batch
    targets: np.ndarray  # (K, 64, 64) float32 coverage
    boxes: np.ndarray  # (K, 4) float32, pixels
    clicks: np.ndarray  # (K, 1 + EXTRA, 2) float32, pixels; the first is on the object
    inside: np.ndarray  # (K, 1 + EXTRA) bool, whether a click is on the object
    complete: np.ndarray  # () bool, whether what has no label is background


def draw_sample(rng: np.random.Generator, sources: Sources, prompts: int) -> Sample:
    """A quarter scenes; of the rest, 40 % whole pictures, half of all with something pasted on."""
    while True:
        made = _scene(rng, sources) if rng.random() < 0.25 else _photograph(rng, sources)
        made.masks = [mask for mask in made.masks if mask.sum() >= SMALLEST_AREA]
        if made.masks:
            return _prompted(rng, made, prompts)


def _scene(rng: np.random.Generator, sources: Sources) -> View:
    image, labels = nano_data.crop(rng, *sources.scenes[int(rng.integers(len(sources.scenes)))])
    labels = labels.astype(np.int64)
    found = View(image.copy(), labels, (SIDE, SIDE), [labels == i for i in np.unique(labels) if i], True)
    if rng.random() < 0.1:
        decorate(rng, found, sources.photographs, sources.pictures)
    return found


def _photograph(rng: np.random.Generator, sources: Sources) -> View:
    labelled = rng.random() < 0.7
    pool = sources.photographs if labelled or not sources.backgrounds else sources.backgrounds
    photo = pool[int(rng.integers(len(pool)))]
    number = _any_object(rng, photo) if photo.objects else None
    mode = rng.random()
    if mode < 0.4:
        rectangle = whole(photo)
    elif mode < 0.7 and number is not None:
        rectangle = around(rng, photo, number, float(rng.uniform(1.2, 2.0)))
    else:
        rectangle = anywhere(rng, photo, number)
    near = overlapping(photo, rectangle, SMALLEST_AREA)
    wanted = [int(i) for i in rng.permutation(near)[:6]]
    if number in near and number not in wanted:
        wanted[0] = number
    found = view(photo, rectangle, wanted)
    if number is None or rng.random() < 0.4:
        decorate(rng, found, sources.photographs, sources.pictures)
    if rng.random() < 0.5:
        _mirror(found)
    found.pixels = _recoloured(rng, found.pixels)
    return found


def _any_object(rng: np.random.Generator, photo: Photograph) -> int:
    """One of the objects; large ones more often, as the square root of their area."""
    weight = np.sqrt([mask.area if mask.area >= 60 else 1.0 for mask in photo.objects])
    return int(rng.choice(len(weight), p=weight / weight.sum()))


def _mirror(found: View) -> None:
    """Left becomes right within the part that holds the picture."""
    width = found.size[1]
    for array in (found.pixels, found.labels, *found.masks):
        array[:, :width] = array[:, :width][:, ::-1].copy()


def _recoloured(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Brightness, contrast, saturation, tint; now and then blur, noise, or no colour at all."""
    if rng.random() < 0.15:
        blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
        pixels = np.asarray(blurred)
    x = pixels.astype(np.float32)
    if rng.random() < 0.8:
        grey = x.mean(-1, keepdims=True)
        saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.5, 1.5)
        x = grey + (x - grey) * np.float32(saturation)
        gain = np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.06, 3))
        middle = np.float32(x.mean())
        x = (middle + (x - middle) * np.float32(rng.uniform(0.7, 1.3))) * gain.astype(np.float32)
    if rng.random() < 0.15:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(1, 10))
    return np.clip(x, 0, 255).astype(np.uint8)


def _prompted(rng: np.random.Generator, made: View, prompts: int) -> Sample:
    height, width = made.size
    pixels = normalised(made.pixels)
    pixels[height:], pixels[:, width:] = 0, 0
    half = prompts // 2
    count = len(made.masks)
    order = [rng.permutation(np.resize(rng.permutation(count), half)) for _ in range(2)]
    chosen = [int(i) for i in np.concatenate(order)]
    boxes = [tight_box(mask) for mask in made.masks]
    clicks = np.zeros((prompts, 1 + EXTRA, 2), np.float32)
    inside = np.ones((prompts, 1 + EXTRA), bool)
    for row, i in enumerate(chosen):
        clicks[row, 0] = click_in(rng, made.masks[i])
        for extra in range(1, 1 + EXTRA):
            clicks[row, extra], inside[row, extra] = _further_click(rng, made.masks[i], boxes[i], made.size)
    return Sample(
        pixels.transpose(2, 0, 1),
        made.labels,
        _extents(made.labels),
        np.stack([made.masks[i].reshape(64, 2, 64, 2).mean((1, 3), dtype=np.float32) for i in chosen]),
        np.stack([jittered(rng, boxes[i]) for i in chosen]),
        clicks,
        inside,
        np.array(made.complete),
    )


def _further_click(
    rng: np.random.Generator, mask: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], bool]:
    """A pixel in or near an object's box, and whether it is on the object."""
    x0, y0, x1, y1 = box
    margin = 0.15 * max(x1 - x0, y1 - y0) + 2
    x = int(np.clip(rng.uniform(x0 - margin, x1 + margin), 0, size[1] - 1))
    y = int(np.clip(rng.uniform(y0 - margin, y1 + margin), 0, size[0] - 1))
    return (x, y), bool(mask[y, x])


def _extents(labels: np.ndarray) -> np.ndarray:
    """For every patch, the sides of the box around the object at its centre, in patches; nan without one."""
    extents = np.full((16, 16, 4), np.nan, np.float32)
    at = labels[4::8, 4::8]
    centres = np.arange(16, dtype=np.float32) * 8 + 4
    for number in np.unique(at[at > 0]):
        x0, y0, x1, y1 = tight_box(labels == number)
        sides = (centres - x0, (centres - y0)[:, None], x1 - centres, (y1 - centres)[:, None])
        here = at == number
        extents[here] = np.stack(np.broadcast_arrays(*sides), -1)[here] / 8
    return extents.reshape(256, 4)


def draw_batch(rng: np.random.Generator, sources: Sources, images: int, prompts: int) -> Sample:
    """Samples stacked along a new first axis."""
    columns = zip(*(draw_sample(rng, sources, prompts) for _ in range(images)), strict=True)
    return Sample(*(np.stack(column) for column in columns))
