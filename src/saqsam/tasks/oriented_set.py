"""Images with objects in boxes at any angle: a DOTA folder, or COCO annotations with rotated boxes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saqsam.datasets.bad_entries import BadEntries, Fault, Problem, problem
from saqsam.datasets.coco import read_instances
from saqsam.datasets.coco_images import entry_name
from saqsam.datasets.exif import Picture, decide
from saqsam.datasets.exif_words import AUTO
from saqsam.datasets.fields import is_finite, shown
from saqsam.datasets.framed import framed
from saqsam.datasets.instances import ImageRecord, Instance, InstanceSet
from saqsam.datasets.listing import ListedImage, from_folder
from saqsam.errors import AnnotationError, ImageError, UsageError
from saqsam.images.files import open_image
from saqsam.prompts.from_dataset import ImagePrompts, prompts_for
from saqsam.prompts.prompts import Prompts, checked_boxes
from saqsam.tasks.dota_labels import CLASSES, DotaObject, read_dota_labels
from saqsam.tasks.oriented_ap import OrientedObject
from saqsam.tasks.oriented_boxes import Corners, mask_corners, upright

LATER_CLASSES = ("container-crane", "airport", "helipad")
"""What DOTA-v1.5 and v2.0 added."""
_NO_LABELS = problem("there is no such label file; an image without objects has an empty one")


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
        return self.of(self.listing.images[:count])

    def of(self, images: Sequence[ImageRecord]) -> OrientedSet:
        """The same set with only some of its images."""
        listing = self.listing.only(images)
        return OrientedSet(listing, {image.id: self.objects[image.id] for image in listing.images})

    def only(self, image_id: int) -> OrientedSet:
        """The same set with a single one of its images."""
        return self.of([image for image in self.listing.images if image.id == image_id])


def read_oriented(
    annotations: str | Path,
    images: str | Path,
    *,
    exif: str = AUTO,
    limit: int | None = None,
    bad: BadEntries | None = None,
) -> OrientedSet:
    """Read annotations of either kind.

    Args:
        annotations: a folder of DOTA label files, ``<image name>.txt`` each; or a COCO instances json whose
            entries may carry ``rotated_box``, eight numbers x0, y0 ... x3, y3, and ``difficult``, 0 or 1.
            Without the former the smallest rectangle around the mask is taken; crowds are difficult.
        images: folder of the images.
        exif: whether annotations count pixels as ``"stored"`` or as ``"displayed"``; ``"auto"`` decides by
            declared sizes and boxes, see :func:`saqsam.datasets.exif.decide`.
        limit: the first images only; the label files of others need not exist.
        bad: what becomes of bad entries, lines and images, and where those left out are listed; None stops
            at them.

    Raises:
        AnnotationError: annotations that break their rules; the message names file and line or entry.
        UnknownFrame: a rotated or mirrored image is there, and the set does not tell its frame.
        UsageError: there is no image.
    """
    annotations, images = Path(annotations), Path(images)
    bad = BadEntries(offered=False) if bad is None else bad
    read = _from_labels if annotations.is_dir() else _from_json
    return read(annotations, images, exif, limit, bad)


def _from_labels(labels: Path, images: Path, exif: str, limit: int | None, bad: BadEntries) -> OrientedSet:
    everything = from_folder(images)
    listed: list[ListedImage] = []
    missing: list[Fault] = []
    for image in everything:
        if limit is not None and len(listed) + (0 if bad.skip else len(missing)) >= limit:
            break
        if _labels_of(image, labels).is_file():
            listed.append(image)
        else:
            missing.append(Fault(_labels_of(image, labels).name, _NO_LABELS))
    bad.resolve(labels, missing)
    files = {image.id: _labels_of(image, labels) for image in listed}
    records: list[ImageRecord] = []
    for image in listed:
        try:
            height, width = open_image(image.path, apply_exif=False).pixels.shape[:2]
        except ImageError as error:
            bad.leave_out_image(error)
            continue
        records.append(ImageRecord(image.id, image.path, image.path.name, width, height))
    if not records:
        raise AnnotationError(
            labels, ["no image has both a label file here and pixels that can be read; check both folders"]
        )
    lines = {one.id: read_dota_labels(files[one.id], bad=bad) for one in records}
    found, names = _with_known_classes(lines, files, bad)
    records, frame_notes = _in_frame_of(found, records, labels, exif)
    ids = {name: index + 1 for index, name in enumerate(names)}
    objects = {
        key: tuple(OrientedObject(ids[one.category], one.polygon, one.difficult) for one in group)
        for key, group in found.items()
    }
    categories = {key: name for name, key in ids.items()}
    every = frozenset(image.id for image in everything)
    notes = (*bad.notes, *frame_notes)
    return OrientedSet(InstanceSet(labels, tuple(records), categories, {}, notes, every), objects)


def _in_frame_of(
    found: Mapping[int, Sequence[DotaObject]], records: Sequence[ImageRecord], labels: Path, exif: str
) -> tuple[list[ImageRecord], tuple[str, ...]]:
    """Images, measured as stored, with their sizes in the frame that labels count in, and a note on it."""
    pictures = [
        Picture(image.path, None, upright(np.array([one.polygon for one in found[image.id]])))
        if found[image.id]
        else Picture(image.path)
        for image in records
    ]
    frames = decide(pictures, labels, exif)
    placed = []
    for image, told, header in zip(records, frames.apply_exif, frames.headers, strict=True):
        stored = (image.height, image.width)
        height, width = header.displayed if told and header is not None else stored
        placed.append(replace(image, width=width, height=height, apply_exif=told))
    return placed, frames.notes


def _labels_of(image: ListedImage, labels: Path) -> Path:
    return labels / f"{image.path.stem}.txt"


def _with_known_classes(
    found: Mapping[int, Sequence[DotaObject]], files: Mapping[int, Path], bad: BadEntries
) -> tuple[Mapping[int, Sequence[DotaObject]], list[str]]:
    """Objects whose class is known, and DOTA's classes in their order; a set that uses none of them has its
    own, by name."""
    used = {one.category for group in found.values() for one in group}
    known = (*CLASSES, *LATER_CLASSES)
    if used and not used & set(known):
        return found, sorted(used)
    for key, group in found.items():
        strange = [one for one in group if one.category not in known]
        bad.resolve(files[key], [Fault(f"line {one.line}", _unknown_class(one, known)) for one in strange])
    good = {key: [one for one in group if one.category in known] for key, group in found.items()}
    return good, [*CLASSES, *(name for name in LATER_CLASSES if name in used)]


def _unknown_class(one: DotaObject, known: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(one.category, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return problem("{} is no class of DOTA{}", shown(one.category), hint)


def _from_json(path: Path, images: Path, exif: str, limit: int | None, bad: BadEntries) -> OrientedSet:
    from saqsam.datasets.strict_json import read_json

    dataset = framed(read_instances(path, images, limit=limit, bad=bad), exif)
    entries = read_json(path, keep_nan=bad.skip)["annotations"]
    faults: list[Fault] = []
    objects: dict[int, tuple[OrientedObject, ...]] = {}
    for image in dataset.images:
        made = []
        for one in dataset.instances_of(image.id):
            found = _object(one, entries[one.place])
            if isinstance(found, Problem):
                faults.append(Fault(entry_name("annotation", one.place, entries[one.place]), found))
            elif found is not None:
                made.append(found)
        objects[image.id] = tuple(made)
    bad.resolve(path, faults)
    listing = InstanceSet(path, dataset.images, dataset.categories, {}, dataset.notes, dataset.known_images)
    return OrientedSet(listing, objects)


def _object(one: Instance, entry: Mapping[str, Any]) -> OrientedObject | Problem | None:
    """The object of one annotation, or what is wrong with it; None where it covers no pixel."""
    difficult, box = entry.get("difficult", 0), entry.get("rotated_box")
    if difficult not in (0, 1):
        return problem("difficult must be 0 or 1, got {}", shown(difficult))
    if box is None:
        corners = mask_corners(one.mask())
        if corners is None:
            return None
    elif isinstance(box, list) and len(box) == 8 and all(is_finite(side) for side in box):
        corners = np.array(box, dtype=np.float64).reshape(4, 2)
    else:
        return problem("rotated_box {} must be eight finite numbers", shown(box))
    return OrientedObject(one.category_id, corners, bool(difficult) or one.iscrowd)


def oriented_prompts(
    dataset: OrientedSet,
    source: str | Path,
    *,
    top_k: int | None = None,
    score_threshold: float | None = None,
    bad: BadEntries | None = None,
) -> dict[int, ImagePrompts]:
    """Upright boxes by image id; images with nothing to ask are left out.

    Args:
        dataset: images and objects.
        source: ``"boxes"``, the upright boxes around the objects (difficult ones are not asked for), or a
            COCO-results file of detections. For a DOTA folder, image ids are numeric names or else places
            in the order of names, and category ids are places in DOTA's order of classes, both from 1.
        top_k: of detections, keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.
        bad: what becomes of bad detections, and where those left out are listed; None stops at them.

    Raises:
        UsageError: ``points`` were asked for.
        AnnotationError: the detections file breaks its rules.
    """
    if source == "points":
        raise UsageError("the oriented task asks with boxes: use boxes or a detections file, not points")
    if source != "boxes":
        return prompts_for(dataset.listing, source, top_k=top_k, score_threshold=score_threshold, bad=bad)
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
