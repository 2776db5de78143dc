"""COCO instance annotations: read, judged line by line, and only then believed.

The format: Lin et al., "Microsoft COCO: Common Objects in Context" (2014), and cocodataset.org. Every fault
listed here makes the usual metric code crash, or return a plausible wrong figure, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saqsam.datasets.bad_entries import BadEntries, Fault, by_kind, problem
from saqsam.datasets.coco_images import LENIENT_IDS, ImageEntries, entry_name, not_an_object
from saqsam.datasets.coco_objects import ObjectEntries
from saqsam.datasets.fields import as_id, id_problem, is_id, is_object, missing_fields, shown
from saqsam.datasets.instances import InstanceSet
from saqsam.datasets.strict_json import MAX_BYTES, read_json
from saqsam.errors import AnnotationError


def read_instances(
    annotations: str | Path,
    images: str | Path,
    *,
    annotated: bool = True,
    masks: bool = True,
    categories: bool = True,
    limit: int | None = None,
    bad: BadEntries | None = None,
    max_bytes: int = MAX_BYTES,
) -> InstanceSet:
    """Read a COCO ``instances`` file and the folder of its images.

    Accepted and noted: ids written as ``1.0`` or ``"000001"``, annotation id 0 (renumbered: metric code takes
    0 for "unmatched"), a missing ``area`` (counted from the mask), an area of 0, a missing ``bbox`` or one
    without area (taken from the mask), a missing or null ``iscrowd`` (0), boxes and polygons that reach past
    their image by at most its own side, polygons as one flat list or as lists of corners, file names that
    are written a little otherwise than the one file that fits, and LVIS's ``coco_url`` in place of
    ``file_name``. Everything else must hold: unique ids, known image and category ids, finite numbers, run
    lengths that fill their image exactly, file names inside ``images`` that exist.

    Args:
        annotations: the json file.
        images: folder that the ``file_name`` entries are relative to; they cannot leave it, except by a link
            that stands in it. Pixels are not read here, only the stated size of very large pictures.
        annotated: False where only images and their ids are wanted: the list ``annotations`` may then be
            absent, as in COCO's ``image_info`` files, and bad ones in it are passed over and noted.
        masks: False where boxes are enough: an annotation with a box then needs no ``segmentation``, and one
            that it has is not looked at.
        categories: False where it does not matter what objects are: neither the list ``categories`` nor a
            ``category_id`` is then needed, and every unknown one is 0.
        limit: the first images only; the files of others need not exist, and their annotations are not
            looked at. With bad entries left out, images are read on until this many are good.
        bad: what becomes of bad entries, and where those left out are listed; None stops at them.
        max_bytes: longest json file that is read.

    Raises:
        AnnotationError: the file is no such JSON, or entries break a rule, counted by kind; or no image is
            left.
    """
    path, folder = Path(annotations), Path(images)
    bad = BadEntries(offered=False) if bad is None else bad
    document = read_json(path, max_bytes=max_bytes, keep_nan=bad.skip)
    if not folder.is_dir():
        raise AnnotationError(folder, ["no such folder of images; check the path"])
    document = _checked_lists(path, document, annotated, categories)
    names = _categories(path, document["categories"], bad) if categories else {}
    listed = ImageEntries(folder, bad, limit)
    listed.read(document["images"])
    objects = ObjectEntries(
        listed, names if categories else None, masks and annotated, bad, path.stat().st_size
    )
    objects.read(document["annotations"])
    if annotated:
        bad.resolve(path, [*listed.faults, *objects.faults])
    else:
        bad.resolve(path, listed.faults)
        if objects.faults:
            bad.note("faults of annotations, which are not needed here", len(objects.faults))
    if not listed.records:
        raise AnnotationError(path, ["no image can be used", *by_kind(listed.faults)], "mend the file")
    if annotated and objects.faults and not objects.instances:
        raise AnnotationError(path, ["no annotation can be used", *by_kind(objects.faults)], "mend the file")
    return InstanceSet(
        path=path,
        images=tuple(listed.records.values()),
        categories=names,
        instances={key: tuple(group) for key, group in objects.instances.items()},
        notes=bad.notes,
        all_images=frozenset(listed.known),
    )


def _checked_lists(path: Path, document: Any, annotated: bool, categories: bool) -> Mapping[str, Any]:
    """The document, if the lists that are needed are there; others are supplied empty.

    Raises:
        AnnotationError: some are not, or there is no image.
    """
    if not is_object(document):
        kind = "a list: is it a detections file?" if isinstance(document, list) else shown(document)
        raise AnnotationError(path, [f"an object with images, annotations, categories expected, got {kind}"])
    supplied: dict[str, list[Any]] = {} if annotated else {"annotations": []}
    supplied |= {} if categories else {"categories": []}
    whole = {**supplied, **document}
    wanted = ["images", "annotations", *(["categories"] if categories else [])]
    missing = [name for name in wanted if not isinstance(whole.get(name), list)]
    if missing:
        problems = [
            f"the list {name!r} " + ("is not a list" if name in whole else "is missing") for name in missing
        ]
        raise AnnotationError(path, problems, "give a COCO instances json")
    if not whole["images"]:
        raise AnnotationError(path, ["the list 'images' is empty: list the images to use"])
    return whole


def _categories(path: Path, entries: list[Any], bad: BadEntries) -> dict[int, str]:
    """Category id to name.

    Raises:
        AnnotationError: an entry is bad. None is left out: what is a class is not to be guessed.
    """
    found: dict[int, str] = {}
    faults: list[Fault] = []
    for index, entry in enumerate(entries):
        number = as_id(entry.get("id")) if is_object(entry) else None
        if not is_object(entry):
            problems = [not_an_object(entry)]
        elif not (problems := missing_fields(entry, ("id", "name"))):
            if number is None:
                problems = [id_problem("id", entry["id"])]
            elif number in found:
                problems = [problem("this id was used by an earlier category")]
            elif not isinstance(entry["name"], str):
                problems = [problem("name {} is not a string", shown(entry["name"]))]
            else:
                found[number] = entry["name"]
                if not is_id(entry["id"]):
                    bad.note(LENIENT_IDS)
        faults += [Fault(entry_name("category", index, entry), one) for one in problems]
    if faults:
        raise AnnotationError(path, by_kind(faults), "mend the list of categories")
    return found
