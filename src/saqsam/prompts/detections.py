"""COCO-results files of boxes, from whatever detector: read, judged entry by entry, put in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saqsam.errors import AnnotationError, UsageError
from saqsam.tasks.fields import (
    box_problem,
    id_problem,
    is_finite,
    is_id,
    is_object,
    lies_outside,
    missing_fields,
    shifted_ids,
    shown,
)
from saqsam.tasks.instance_set import InstanceSet
from saqsam.tasks.strict_json import MAX_BYTES, read_json

_SLIVER = 16.0
"""Pixels between neighbouring float32 numbers at the far side of the widest image that is read."""


@dataclass(frozen=True)
class Detection:
    """One box that a detector found.

    Attributes:
        image_id: of an image of the data set.
        category_id: of a category of the data set.
        box: ``x0, y0, x1, y1`` in pixels, not yet clipped to the image.
        score: the detector's confidence.
    """

    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    score: float


def read_detections(
    path: str | Path,
    dataset: InstanceSet,
    *,
    top_k: int | None = None,
    score_threshold: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> dict[int, list[Detection]]:
    """Read ``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]``.

    A COCO-style object whose ``annotations`` hold such entries is accepted too. Boxes without area, or
    wholly outside their image, are faults: a detector that writes them is broken, and leaving them out in
    silence would change its figures.

    Args:
        path: the json file.
        dataset: whose images and categories the ids must name. Detections of images that
            ``InstanceSet.first`` left out are passed over.
        top_k: keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.
        max_bytes: longest file that is read.

    Returns:
        Image id to detections, by falling score; equal scores keep the order of the file.

    Raises:
        AnnotationError: not such a file; all broken entries are counted and the first 20 shown.
        UsageError: ``top_k`` below 1, or a threshold that is not finite.
    """
    path = Path(path)
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k {top_k}: keep at least 1 detection of an image, or leave top_k out for all")
    if score_threshold is not None and not is_finite(score_threshold):
        raise UsageError(f"score_threshold {score_threshold} must be a finite number")
    document = read_json(path, max_bytes=max_bytes)
    entries = document.get("annotations") if is_object(document) else document
    if not isinstance(entries, list):
        raise AnnotationError(path, ["a list of detections expected: image_id, category_id, bbox, score"])
    sizes = {image.id: (image.width, image.height) for image in dataset.images}
    problems: list[str] = []
    found: dict[int, list[Detection]] = {}
    for index, entry in enumerate(entries):
        faults = list(_faults(entry, sizes, dataset))
        problems += [f"detection {index}: {fault}" for fault in faults]
        if not faults and entry["image_id"] in sizes:
            detection = _detection(entry)
            found.setdefault(detection.image_id, []).append(detection)
    if problems:
        raise AnnotationError(path, [*_shifted(entries, dataset), *problems])
    return {key: _best(group, top_k, score_threshold) for key, group in sorted(found.items())}


def _shifted(entries: list[Any], dataset: InstanceSet) -> Iterator[str]:
    """Whether ids that the data set does not know are all off by one: that is said first."""
    known = {"image_id": dataset.known_images, "category_id": dataset.categories}
    for noun, ids in known.items():
        hint = shifted_ids((entry.get(noun) for entry in entries if is_object(entry)), ids, noun)
        if hint is not None:
            yield hint


def stated_boxes(path: str | Path) -> dict[int, list[tuple[float, float, float, float]]]:
    """XYXY boxes by image id as a detections file has them; entries that are none are passed over.

    Raises:
        AnnotationError: not JSON at all.
    """
    document = read_json(Path(path))
    entries = document.get("annotations") if is_object(document) else document
    found: dict[int, list[tuple[float, float, float, float]]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if is_object(entry) and is_id(entry.get("image_id")) and box_problem(entry.get("bbox")) is None:
            x, y, width, height = (float(side) for side in entry["bbox"])
            found.setdefault(entry["image_id"], []).append((x, y, x + width, y + height))
    return found


def _faults(entry: Any, sizes: dict[int, tuple[int, int]], dataset: InstanceSet) -> Iterator[str]:
    if not is_object(entry):
        yield f"{shown(entry)} is not an object"
        return
    missing = missing_fields(entry, ("image_id", "category_id", "bbox", "score"))
    if missing:
        yield from missing
        return
    image, category = entry["image_id"], entry["category_id"]
    if not is_id(image):
        yield id_problem("image_id", image)
    elif image not in dataset.known_images:
        yield f"image_id {image} is not the id of any image of {dataset.path.name}"
    if not is_id(category):
        yield id_problem("category_id", category)
    elif category not in dataset.categories:
        yield f"category_id {category} is not the id of any category of {dataset.path.name}"
    if not is_finite(entry["score"]):
        yield f"score {shown(entry['score'])} is not a finite number"
    fault = box_problem(entry["bbox"])
    if fault is None and is_id(image) and image in sizes:
        fault = _misplaced(entry["bbox"], *sizes[image])
    if fault is not None:
        yield fault


def _misplaced(box: list[float], width: int, height: int) -> str | None:
    x, y, across, down = box
    if across == 0 or down == 0:
        return f"bbox {shown(box)} has no area"
    if lies_outside(box, width, height):
        return f"bbox {shown(box)} lies wholly outside the {width} x {height} image"
    # A sliver inside the image may round to nothing in float32, as the model will see it.
    corners = (max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height))
    if min(corners[2] - corners[0], corners[3] - corners[1]) < _SLIVER:
        x0, y0, x1, y1 = np.array(corners, np.float32)
        if x1 <= x0 or y1 <= y0:
            return f"bbox {shown(box)} has no area inside the {width} x {height} image"
    return None


def _detection(entry: Any) -> Detection:
    x, y, width, height = (float(side) for side in entry["bbox"])
    return Detection(
        entry["image_id"], entry["category_id"], (x, y, x + width, y + height), float(entry["score"])
    )


def _best(group: list[Detection], top_k: int | None, threshold: float | None) -> list[Detection]:
    kept = [one for one in group if threshold is None or one.score >= threshold]
    return sorted(kept, key=lambda one: -one.score)[:top_k]
