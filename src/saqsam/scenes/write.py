"""Writing generated scenes as a COCO-format set, so that every task has data without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle
from PIL import Image
from shapely import MultiPoint

from saqsam.errors import UsageError
from saqsam.files import atomic_write
from saqsam.scenes.compose import DENSITY, RADIUS, Scene, make_scene
from saqsam.scenes.shapes import CATEGORIES

MIXED_SIZES: tuple[tuple[int, int], ...] = ((128, 128), (128, 128), (96, 128), (128, 96))
"""Heights and widths that ``write_scenes`` cycles through by default: half of them need padding."""

_RADIUS_SEEN = 12.0
"""A radius in pixels at which most objects are large enough to count; see ``compose.MIN_PIXELS``."""


def rotated_box(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The smallest rectangle, at any angle, around the pixels of a mask.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        (4, 2) corners as x, y in pixels; pixel (x, y) fills [x, x + 1] x [y, y + 1].
    """
    rows, columns = np.nonzero(mask)
    edge = np.r_[True, rows[1:] != rows[:-1]]
    ends = np.flatnonzero(np.r_[edge, True])
    left, right = columns[ends[:-1]], columns[ends[1:] - 1] + 1
    rows = rows[ends[:-1]]
    x, y = np.r_[left, left, right, right], np.r_[rows, rows + 1, rows, rows + 1]
    rectangle = MultiPoint(np.stack([x, y], axis=1)).minimum_rotated_rectangle
    return np.asarray(rectangle.exterior.coords, dtype=np.float64)[:4]


def write_scenes(
    directory: str | Path,
    count: int,
    seed: int,
    size: tuple[int, int] | None = None,
    *,
    density: tuple[float, float] = DENSITY,
    radius: tuple[float, float] = RADIUS,
) -> Path:
    """Write a set of generated scenes; the same arguments write the same bytes.

    ``directory`` gets ``images/000001.png`` ..., ``semantic/000001.png`` ... (uint8 category id of
    every pixel, 0 background) and ``instances.json`` (COCO: masks as compressed RLE, ``bbox`` xywh,
    ``area``, ``iscrowd`` 0, eight categories, and ``rotated_box``: eight numbers, the corners
    x0, y0 ... x3, y3).  Every image has at least one instance.

    Args:
        directory: created if missing.
        count: number of images, at least 1.
        seed: scene ``i`` depends on ``seed`` and ``i`` alone, so a longer set starts with a shorter one.
        size: height and width of every image; None cycles through ``MIXED_SIZES``.
        density: least and most objects per 256 x 256 pixels.
        radius: least and largest object radius in pixels.

    Returns:
        The path of ``instances.json``.

    Raises:
        UsageError: ``count``, ``size`` or ``radius`` is too small, ``seed`` is negative, or a pair is not
            rising.
    """
    _refuse_impossible(count, seed, size, density, radius)
    directory = Path(directory)
    for name in ("images", "semantic"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        shape = size or MIXED_SIZES[index % len(MIXED_SIZES)]
        scene = _scene_with_objects(np.random.default_rng([seed, index]), shape, density, radius)
        name = f"{index + 1:06d}.png"
        _write_png(directory / "images" / name, scene.image)
        _write_png(directory / "semantic" / name, scene.semantic)
        images.append({"id": index + 1, "file_name": name, "height": shape[0], "width": shape[1]})
        annotations += _annotations(scene, index + 1, first_id=len(annotations) + 1)
    target = directory / "instances.json"
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(_document(images, annotations, seed)) + "\n", encoding="utf-8")
    return target


def _refuse_impossible(
    count: int,
    seed: int,
    size: tuple[int, int] | None,
    density: tuple[float, float],
    radius: tuple[float, float],
) -> None:
    if count < 1 or seed < 0 or (size is not None and min(size) < 16):
        raise UsageError(
            f"write_scenes: count {count}, seed {seed}, size {size}: count must be at least 1, seed "
            "at least 0, and both sides at least 16 pixels"
        )
    # Smaller objects never count as instances, and a scene without one is drawn again.
    if not (0 < density[0] <= density[1] and 1 <= radius[0] <= radius[1] and radius[1] >= _RADIUS_SEEN):
        raise UsageError(
            f"write_scenes: density {density}, radius {radius}: both go from the least to the most, above 0, "
            f"and the largest radius is at least {_RADIUS_SEEN:g} pixels"
        )


def _scene_with_objects(
    rng: np.random.Generator,
    size: tuple[int, int],
    density: tuple[float, float],
    radius: tuple[float, float],
) -> Scene:
    while True:
        scene = make_scene(rng, size, density=density, radius=radius)
        if len(scene):
            return scene


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    records = []
    for index, category in enumerate(scene.category_ids):
        mask = scene.mask(index)
        x0, y0, x1, y1 = (int(side) for side in scene.boxes[index])
        encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = encoded["counts"]
        records.append(
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": category,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {
                    "size": list(mask.shape),
                    "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
                },
                "rotated_box": [round(float(side), 3) for side in rotated_box(mask).ravel()],
            }
        )
    return records


def _document(images: list[dict[str, Any]], annotations: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "info": {"description": f"generated scenes, seed {seed}", "version": "1"},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES)
        ],
    }


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
