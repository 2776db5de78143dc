"""Photographs in COCO format held in memory, and views of them: rectangles at the model's size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluate_nano import rasterised
from nano_data import SIDE
from PIL import Image

HELD_OUT = 3
"""Photographs with ``id % 10`` equal to this are never trained on: they choose between models."""

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mask:
    """One object of a photograph: a bool array and where it lies in the picture."""

    left: int
    top: int
    cut: np.ndarray

    @property
    def area(self) -> int:
        return int(self.cut.sum())

    @property
    def box(self) -> Rectangle:
        height, width = self.cut.shape
        return self.left, self.top, self.left + width, self.top + height


@dataclass(frozen=True)
class Photograph:
    """A picture, its objects (largest first) and a map of them: 0 none, i + 1 object i, small ones on top."""

    image: Image.Image
    objects: list[Mask]
    labels: Image.Image
    complete: bool


def load_photographs(directory: Path, held_out: bool = False) -> list[Photograph]:
    """The photographs to train on, or those to choose with.

    Args:
        directory: has ``images/`` and ``instances.json``.
    """
    document = json.loads((directory / "instances.json").read_text())
    own: dict[int, list[np.ndarray]] = {record["id"]: [] for record in document["images"]}
    sizes = {record["id"]: (record["height"], record["width"]) for record in document["images"]}
    for annotation in document["annotations"]:
        if not annotation["iscrowd"]:
            key = annotation["image_id"]
            own[key].append(rasterised(annotation["segmentation"], sizes[key]))
    found = []
    for record in document["images"]:
        if (record["id"] % 10 == HELD_OUT) == held_out:
            image = Image.open(directory / "images" / record["file_name"]).convert("RGB")
            found.append(_photograph(image, own[record["id"]], record.get("labelled") == "complete"))
    return found


def load_backgrounds(directory: Path) -> list[Photograph]:
    """Photographs without masks: ``backgrounds/`` and ``backgrounds.json``."""
    document = json.loads((directory / "backgrounds.json").read_text())
    names = [record["file_name"] for record in document["images"]]
    return [
        _photograph(Image.open(directory / "backgrounds" / name).convert("RGB"), [], False) for name in names
    ]


def _photograph(image: Image.Image, masks: list[np.ndarray], complete: bool) -> Photograph:
    masks = sorted((m for m in masks if m.any()), key=lambda m: -int(m.sum()))
    labels = np.zeros((image.height, image.width), np.uint8)
    objects = []
    for number, mask in enumerate(masks):
        labels[mask] = min(number, 254) + 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        objects.append(Mask(left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()))
    return Photograph(image, objects, Image.fromarray(labels), complete)


@dataclass
class View:
    """A rectangle of a photograph scaled to fit 128 x 128 px, at the top left, zero elsewhere.

    Attributes:
        pixels: (128, 128, 3) uint8.
        labels: (128, 128) int64, 0 none.
        size: height and width that hold the picture.
        masks: (128, 128) bool objects that may be prompted for.
        complete: whether what carries no label is background.
    """

    pixels: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    masks: list[np.ndarray]
    complete: bool


def view(photo: Photograph, rectangle: Rectangle, wanted: list[int]) -> View:
    """Cut out and scale; ``wanted`` are the numbers of the objects whose masks are needed."""
    x0, y0, x1, y1 = rectangle
    scale = SIDE / max(x1 - x0, y1 - y0)
    width, height = (max(1, min(SIDE, round(side * scale))) for side in (x1 - x0, y1 - y0))
    size = (width, height)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:height, :width] = np.asarray(photo.image.resize(size, Image.Resampling.BILINEAR, box=rectangle))
    labels = np.zeros((SIDE, SIDE), np.int64)
    labels[:height, :width] = np.asarray(photo.labels.resize(size, Image.Resampling.NEAREST, box=rectangle))
    masks = []
    for number in wanted:
        canvas = np.zeros((photo.image.height, photo.image.width), np.uint8)
        mask = photo.objects[number]
        bottom, right = mask.top + mask.cut.shape[0], mask.left + mask.cut.shape[1]
        canvas[mask.top : bottom, mask.left : right] = mask.cut.astype(np.uint8) * 255
        small = np.zeros((SIDE, SIDE), bool)
        scaled = Image.fromarray(canvas).resize(size, Image.Resampling.BILINEAR, box=rectangle)
        small[:height, :width] = np.asarray(scaled) > 127
        masks.append(small)
    return View(pixels, labels, (height, width), masks, photo.complete)


def around(rng: np.random.Generator, photo: Photograph, number: int, factor: float) -> Rectangle:
    """A square ``factor`` times the longer side of an object's box, not quite centred, within the picture."""
    x0, y0, x1, y1 = photo.objects[number].box
    side = max(factor * max(x1 - x0, y1 - y0), 16.0)
    room = (side - max(x1 - x0, y1 - y0)) / 2
    x, y = (x0 + x1) / 2 + rng.uniform(-0.5, 0.5) * room, (y0 + y1) / 2 + rng.uniform(-0.5, 0.5) * room
    return _within(photo.image, x, y, side)


def anywhere(rng: np.random.Generator, photo: Photograph, number: int | None) -> Rectangle:
    """A square of a third to all of the shorter side that holds a point of the object, if one is given."""
    width, height = photo.image.size
    side = min(width, height) * float(np.exp(rng.uniform(np.log(0.33), 0)))
    if number is None:
        x, y = rng.uniform(0, width), rng.uniform(0, height)
    else:
        x0, y0, x1, y1 = photo.objects[number].box
        x, y = (
            rng.uniform(x0, x1) + rng.uniform(-0.4, 0.4) * side,
            rng.uniform(y0, y1) + rng.uniform(-0.4, 0.4) * side,
        )
    return _within(
        photo.image, min(max(x, side / 2), width - side / 2), min(max(y, side / 2), height - side / 2), side
    )


def _within(image: Image.Image, x: float, y: float, side: float) -> Rectangle:
    """The part of a square that lies in the picture."""
    left, right = max(0.0, x - side / 2), min(float(image.width), x + side / 2)
    top, bottom = max(0.0, y - side / 2), min(float(image.height), y + side / 2)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def whole(photo: Photograph) -> Rectangle:
    return 0.0, 0.0, float(photo.image.width), float(photo.image.height)


def overlapping(photo: Photograph, rectangle: Rectangle, least: float) -> list[int]:
    """Objects whose box overlaps the rectangle and that may cover ``least`` pixels once scaled."""
    x0, y0, x1, y1 = rectangle
    scale = SIDE / max(x1 - x0, y1 - y0)
    found = []
    for number, mask in enumerate(photo.objects):
        a, b, c, d = mask.box
        across, down = min(c, x1) - max(a, x0), min(d, y1) - max(b, y0)
        if across > 0 and down > 0 and min(mask.area, across * down) * scale**2 >= least:
            found.append(number)
    return found
