"""Images with objects in boxes at any angle: a DOTA folder, or COCO annotations with rotated boxes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saqsam.detectors.listing import from_folder
from saqsam.errors import AnnotationError, UsageError
from saqsam.images import open_image
from saqsam.prompts.from_dataset import ImagePrompts, prompts_for
from saqsam.prompts.prompts import Prompts, checked_boxes
from saqsam.tasks.coco_json import read_instances
from saqsam.tasks.dota_labels import CLASSES, DotaObject, read_dota_labels
from saqsam.tasks.exif import Picture, decide
from saqsam.tasks.exif_words import AUTO
from saqsam.tasks.fields import is_finite, is_object, shown
from saqsam.tasks.framed import framed
from saqsam.tasks.instance_set import ImageRecord, Instance, InstanceSet
from saqsam.tasks.oriented_ap import OrientedObject
from saqsam.tasks.oriented_boxes import Corners, mask_corners, upright

LATER_CLASSES = ("container-crane", "airport", "helipad")
"""What DOTA-v1.5 and v2.0 added."""


@dataclass(frozen=True)
class OrientedSet:
    """Images and their objects.

    Attributes:
        listing: images and categories, in the form that detections are held against; without outlines.
        objects: image id to its objects.
    """

    listing: InstanceSet
    objects: Mapping[int, Sequence[OrientedObject]]

    def first(self, count: int) -> OrientedSet:
        """The same set with only its first ``count`` images."""
        listing = self.listing.first(count)
        return OrientedSet(listing, {image.id: self.objects[image.id] for image in listing.images})

    def only(self, image_id: int) -> OrientedSet:
        """The same set with a single one of its images."""
        images = tuple(image for image in self.listing.images if image.id == image_id)
        return OrientedSet(replace(self.listing, images=images), {image_id: self.objects[image_id]})


def read_oriented(
    annotations: str | Path, images: str | Path, *, exif: str = AUTO, limit: int | None = None
) -> OrientedSet:
    """Read annotations of either kind.

    Args:
        annotations: a folder of DOTA label files, ``<image name>.txt`` each; or a COCO instances json whose
            entries may carry ``rotated_box``, eight numbers x0, y0 ... x3, y3, and ``difficult``, 0 or 1.
            Without the former the smallest rectangle around the mask is taken; crowds are difficult.
        images: folder of the images.
        exif: whether annotations count pixels as ``"stored"`` or as ``"displayed"``; ``"auto"`` decides by
            declared sizes and boxes, see :func:`saqsam.tasks.exif.decide`.
        limit: keep only the first images.

    Raises:
        AnnotationError: annotations that break their rules; the message names file and line or entry.
        UnknownFrame: a rotated or mirrored image is there, and the set does not tell its frame.
        UsageError: there is no image.
    """
    annotations, images = Path(annotations), Path(images)
    read = _from_labels if annotations.is_dir() else _from_json
    return read(annotations, images, exif, limit)


def _from_labels(labels: Path, images: Path, exif: str, limit: int | None) -> OrientedSet:
    listed = from_folder(images)
    files = {image.id: labels / f"{image.path.stem}.txt" for image in listed}
    missing = [f"no label file {path.name}" for path in files.values() if not path.is_file()]
    if missing:
        raise AnnotationError(
            labels, [f"{fault}; an image without objects has an empty one" for fault in missing]
        )
    found = {key: read_dota_labels(path) for key, path in files.items()}
    names = _class_names(found, files)
    ids = {name: index + 1 for index, name in enumerate(names)}
    pictures = [
        Picture(image.path, None, upright(np.array([one.polygon for one in found[image.id]])))
        if found[image.id]
        else Picture(image.path)
        for image in listed
    ]
    kept = listed if limit is None else listed[:limit]
    frames = decide(pictures, labels, exif, asked=range(len(kept)))
    records = []
    for image, told in zip(kept, frames.apply_exif, strict=True):
        height, width = open_image(image.path, apply_exif=bool(told)).pixels.shape[:2]
        records.append(ImageRecord(image.id, image.path, image.path.name, width, height, told))
    objects = {
        key: tuple(OrientedObject(ids[one.category], one.polygon, one.difficult) for one in group)
        for key, group in found.items()
    }
    categories = {key: name for name, key in ids.items()}
    known = frozenset(image.id for image in listed)
    listing = InstanceSet(labels, tuple(records), categories, {}, frames.notes, known)
    return OrientedSet(listing, {record.id: objects[record.id] for record in records})


def _class_names(found: Mapping[int, Sequence[DotaObject]], files: Mapping[int, Path]) -> list[str]:
    """DOTA's classes in their order; a set that uses none of them has its own, by name."""
    used = {one.category for group in found.values() for one in group}
    known = (*CLASSES, *LATER_CLASSES)
    if used and not used & set(known):
        return sorted(used)
    for key, group in found.items():
        for one in group:
            if one.category not in known:
                near = difflib.get_close_matches(one.category, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                problem = f"line {one.line}: {shown(one.category)} is no class of DOTA{hint}"
                raise AnnotationError(files[key], [problem])
    return [*CLASSES, *(name for name in LATER_CLASSES if name in used)]


def _from_json(path: Path, images: Path, exif: str, limit: int | None) -> OrientedSet:
    from saqsam.tasks.strict_json import read_json

    dataset = framed(read_instances(path, images), exif, limit=limit)
    entries = {entry["id"]: entry for entry in read_json(path)["annotations"] if is_object(entry)}
    problems: list[str] = []
    objects: dict[int, tuple[OrientedObject, ...]] = {}
    for image in dataset.images:
        made = (_object(one, entries.get(one.id, {}), problems) for one in dataset.instances_of(image.id))
        objects[image.id] = tuple(one for one in made if one is not None)
    if problems:
        raise AnnotationError(path, problems)
    listing = InstanceSet(path, dataset.images, dataset.categories, {}, dataset.notes, dataset.known_images)
    return OrientedSet(listing, objects)


def _object(one: Instance, entry: Mapping[str, Any], problems: list[str]) -> OrientedObject | None:
    """The object of one annotation; None, with the reason in ``problems``, where its fields are wrong."""
    difficult, box = entry.get("difficult", 0), entry.get("rotated_box")
    if difficult not in (0, 1):
        problems.append(f"annotation id {one.id}: difficult must be 0 or 1, got {shown(difficult)}")
        return None
    if box is None:
        corners = mask_corners(one.mask())
        if corners is None:
            return None
    elif isinstance(box, list) and len(box) == 8 and all(is_finite(side) for side in box):
        corners = np.array(box, dtype=np.float64).reshape(4, 2)
    else:
        problems.append(f"annotation id {one.id}: rotated_box {shown(box)} must be eight finite numbers")
        return None
    return OrientedObject(one.category_id, corners, bool(difficult) or one.iscrowd)


def oriented_prompts(
    dataset: OrientedSet,
    source: str | Path,
    *,
    top_k: int | None = None,
    score_threshold: float | None = None,
) -> dict[int, ImagePrompts]:
    """Upright boxes by image id; images with nothing to ask are left out.

    Args:
        dataset: images and objects.
        source: ``"boxes"``, the upright boxes around the objects (difficult ones are not asked for), or a
            COCO-results file of detections. For a DOTA folder, image ids are numeric names or else places
            in the order of names, and category ids are places in DOTA's order of classes, both from 1.
        top_k: of detections, keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.

    Raises:
        UsageError: ``points`` were asked for.
        AnnotationError: the detections file breaks its rules.
    """
    if source == "points":
        raise UsageError("the oriented task asks with boxes: use boxes or a detections file, not points")
    if source != "boxes":
        return prompts_for(dataset.listing, source, top_k=top_k, score_threshold=score_threshold)
    made = {
        image.id: _from_objects(image, dataset.objects[image.id], dataset.listing.path)
        for image in dataset.listing.images
    }
    return {key: found for key, found in made.items() if found is not None}


def asked_objects(image: ImageRecord, objects: Sequence[OrientedObject]) -> list[OrientedObject]:
    """The objects that ``"boxes"`` asks for: not difficult, and at least partly on the image."""
    size = np.array([image.width, image.height])
    return [
        one
        for one in objects
        if not one.difficult and (one.corners.max(0) > 0).all() and (one.corners.min(0) < size).all()
    ]


def _from_objects(image: ImageRecord, objects: Sequence[OrientedObject], path: Path) -> ImagePrompts | None:
    asked = asked_objects(image, objects)
    if not asked:
        return None
    corners: Corners = np.stack([one.corners for one in asked])
    where = f"{path}: image {image.file_name}: boxes"
    given = upright(corners)
    boxes, clipped = checked_boxes(given, image.width, image.height, where=where)
    categories = tuple(one.category_id for one in asked)
    scores = (1.0,) * len(asked)
    return ImagePrompts(Prompts(boxes=boxes), categories, scores, clipped=clipped, given=given)
