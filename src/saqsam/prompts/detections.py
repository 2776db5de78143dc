"""COCO-results files of boxes, from whatever detector: read, judged entry by entry, put in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqsam.datasets.bad_entries import BadEntries, Fault, Problem, by_kind, problem
from saqsam.datasets.coco_images import LENIENT_IDS
from saqsam.datasets.fields import (
    as_id,
    box_problem,
    has_area_inside,
    id_problem,
    is_finite,
    is_id,
    is_object,
    lies_outside,
    missing_fields,
    shifted_ids,
    shown,
)
from saqsam.datasets.instances import InstanceSet
from saqsam.datasets.strict_json import MAX_BYTES, read_json
from saqsam.errors import AnnotationError, UsageError


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
    any_category: bool = False,
    bad: BadEntries | None = None,
    max_bytes: int = MAX_BYTES,
) -> dict[int, list[Detection]]:
    """Read ``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]``.

    A COCO-style object whose ``annotations`` hold such entries is accepted too. Boxes without area, or
    wholly outside their image, are faults: a detector that writes them is broken, and leaving them out in
    silence would change its figures. Ids written as ``1.0`` or ``"000001"`` are accepted and noted.

    Args:
        path: the json file.
        dataset: whose images and categories the ids must name. Detections of images that
            ``InstanceSet.first`` left out are passed over.
        top_k: keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.
        any_category: categories need not be of the data set.
        bad: what becomes of bad entries, and where those left out are listed; None stops at them.
        max_bytes: longest file that is read.

    Returns:
        Image id to detections, by falling score; equal scores keep the order of the file.

    Raises:
        AnnotationError: not such a file, or bad entries, counted by kind.
        UsageError: ``top_k`` below 1, or a threshold that is not finite.
    """
    path = Path(path)
    bad = BadEntries(offered=False) if bad is None else bad
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k {top_k}: keep at least 1 detection of an image, or leave top_k out for all")
    if score_threshold is not None and not is_finite(score_threshold):
        raise UsageError(f"score_threshold {score_threshold} must be a finite number")
    document = read_json(path, max_bytes=max_bytes, keep_nan=bad.skip)
    entries = document.get("annotations") if is_object(document) else document
    if not isinstance(entries, list):
        wanted = "a list of detections expected: image_id, category_id, bbox, score"
        raise AnnotationError(path, [f"{wanted}; 'saqsam detect' writes such a file"])
    sizes = {image.id: (image.width, image.height) for image in dataset.images}
    faults: list[Fault] = []
    found: dict[int, list[Detection]] = {}
    for index, entry in enumerate(entries):
        problems = list(_faults(entry, sizes, dataset, any_category))
        faults += [Fault(f"detection {index}", one) for one in problems]
        image, category = (
            (None, None) if problems else (as_id(entry["image_id"]), as_id(entry["category_id"]))
        )
        if image in sizes and image is not None and category is not None:
            found.setdefault(image, []).append(_detection(entry, image, category))
            if not (is_id(entry["image_id"]) and is_id(entry["category_id"])):
                bad.note(LENIENT_IDS)
    hints = list(_shifted(entries, dataset, any_category)) if faults else []
    bad.resolve(path, faults, hints)
    if len({fault.entry for fault in faults}) == len(entries) > 0:
        raise AnnotationError(path, ["no detection can be used", *hints, *by_kind(faults)], "mend the file")
    return {key: _best(group, top_k, score_threshold) for key, group in sorted(found.items())}


def _shifted(entries: list[Any], dataset: InstanceSet, any_category: bool) -> Iterator[str]:
    """Whether ids that the data set does not know are all off by one: that is said first."""
    known: dict[str, Iterable[int]] = {"image_id": dataset.known_images}
    known |= {} if any_category else {"category_id": dataset.categories}
    for noun, ids in known.items():
        hint = shifted_ids((as_id(entry.get(noun)) for entry in entries if is_object(entry)), ids, noun)
        if hint is not None:
            yield hint


def stated_boxes(path: str | Path) -> dict[int, list[tuple[float, float, float, float]]]:
    """XYXY boxes by image id as a detections file has them; entries that are none are passed over.

    Raises:
        AnnotationError: not JSON at all.
    """
    found: dict[int, list[tuple[float, float, float, float]]] = {}
    for entry in _stated(path):
        image = as_id(entry.get("image_id"))
        if image is not None and box_problem(entry.get("bbox")) is None:
            x, y, width, height = (float(side) for side in entry["bbox"])
            found.setdefault(image, []).append((x, y, x + width, y + height))
    return found


def stated_categories(path: str | Path) -> list[int]:
    """Every category that a detections file speaks of, in the order of its entries, each once.

    Raises:
        AnnotationError: not JSON at all.
    """
    ids = (as_id(entry.get("category_id")) for entry in _stated(path))
    return list(dict.fromkeys(one for one in ids if one is not None))


def _stated(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a detections file before they are judged."""
    document = read_json(Path(path), keep_nan=True)
    entries = document.get("annotations") if is_object(document) else document
    yield from filter(is_object, entries if isinstance(entries, list) else ())


def _faults(
    entry: Any, sizes: Mapping[int, tuple[int, int]], dataset: InstanceSet, any_category: bool
) -> Iterator[Problem]:
    if not is_object(entry):
        yield problem("{} is not an object", shown(entry))
        return
    missing = missing_fields(entry, ("image_id", "category_id", "bbox", "score"))
    if missing:
        yield from missing
        return
    image, category = as_id(entry["image_id"]), as_id(entry["category_id"])
    if image is None:
        yield id_problem("image_id", entry["image_id"])
    elif image not in dataset.known_images:
        yield problem("image_id {} is not the id of any image of {}", image, dataset.path.name)
    if category is None:
        yield id_problem("category_id", entry["category_id"])
    elif not any_category and category not in dataset.categories:
        yield problem("category_id {} is not the id of any category of {}", category, dataset.path.name)
    if not is_finite(entry["score"]):
        yield problem("score {} is not a finite number", shown(entry["score"]))
    fault = box_problem(entry["bbox"])
    if fault is None and image is not None and image in sizes:
        fault = _misplaced(entry["bbox"], *sizes[image])
    if fault is not None:
        yield fault


def _misplaced(box: list[float], width: int, height: int) -> Problem | None:
    if box[2] == 0 or box[3] == 0:
        return problem("bbox {} has no area", shown(box))
    if lies_outside(box, width, height):
        return problem("bbox {} lies wholly outside the {} x {} image", shown(box), width, height)
    if not has_area_inside(box, width, height):
        return problem("bbox {} has no area inside the {} x {} image", shown(box), width, height)
    return None


def _detection(entry: Any, image: int, category: int) -> Detection:
    x, y, width, height = (float(side) for side in entry["bbox"])
    return Detection(image, category, (x, y, x + width, y + height), float(entry["score"]))


def _best(group: list[Detection], top_k: int | None, threshold: float | None) -> list[Detection]:
    kept = [one for one in group if threshold is None or one.score >= threshold]
    return sorted(kept, key=lambda one: -one.score)[:top_k]
