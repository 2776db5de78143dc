"""The annotations of a COCO document: judged entry by entry, then kept as instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from itertools import count
from typing import Any

from saqsam.datasets.bad_entries import BadEntries, Fault, Problem, problem
from saqsam.datasets.coco_images import LENIENT_IDS, ImageEntries, entry_name, not_an_object
from saqsam.datasets.fields import (
    LARGEST_ID,
    as_id,
    box_problem,
    has_area_inside,
    id_problem,
    is_finite,
    is_id,
    is_object,
    lies_outside,
    missing_fields,
    reaches_far,
    reaches_past,
    shown,
)
from saqsam.datasets.instances import ImageRecord, Instance
from saqsam.datasets.masks import edge_length, mask_area, outline_problem, plain_outline, rasterise

SET_EDGE, EDGE_PER_BYTE = 20_000_000, 20
"""Pixels of outline that a file may hold in any case, and for each of its bytes: drawn masks take memory."""


class ObjectEntries:
    """Reads the list ``annotations``.

    Args:
        images: already read.
        categories: known category ids; None where categories are not needed.
        masks: outlines are needed; without, a box is enough and an outline beside it is not looked at.
        bad: what becomes of bad entries.
        file_bytes: size of the file, which bounds the outlines it may hold.

    Attributes:
        instances: image id to the good ones, in the order of the list.
        faults: what is wrong with the bad ones.
    """

    def __init__(
        self,
        images: ImageEntries,
        categories: Container[int] | None,
        masks: bool,
        bad: BadEntries,
        file_bytes: int,
    ) -> None:
        self.images, self.categories, self.masks, self.bad = images, categories, masks, bad
        self.instances: defaultdict[int, list[Instance]] = defaultdict(list)
        self.faults: list[Fault] = []
        self.edge_left = float(max(SET_EDGE, EDGE_PER_BYTE * file_bytes))
        self.used: set[int] = set()
        self.spare: int | None = None

    def read(self, entries: Sequence[Any]) -> None:
        """Judge entries one by one, and keep the good ones on images that are asked for."""
        for index, entry in enumerate(entries):
            if not is_object(entry):
                found = [not_an_object(entry)]
            elif self._passed_over(as_id(entry.get("image_id"))):
                continue
            else:
                found = self._judge(index, entry, entries)
            if found:
                name = entry_name("annotation", index, entry)
                self.faults += [Fault(name, fault) for fault in found]

    def _passed_over(self, image: int | None) -> bool:
        """True for annotations of images that are not asked for, or are left out already."""
        if image is None or image in self.images.records or image not in self.images.known:
            return False
        if image in self.images.left_out and self.bad.skip:
            self.bad.note("annotations of images that are left out")
            return True
        return image not in self.images.left_out

    def _judge(self, index: int, entry: Mapping[str, Any], entries: Sequence[Any]) -> list[Problem]:
        """Keep a good entry; what is wrong with a bad one."""
        wanted = ["id", "image_id"]
        wanted += ["category_id"] if self.categories is not None else []
        wanted += ["segmentation"] if self.masks else []
        faults = missing_fields(entry, wanted)
        if faults:
            return faults
        faults = self._reference_faults(entry)
        crowd = entry.get("iscrowd")
        if crowd is not None and not isinstance(crowd, bool) and as_id(crowd) not in (0, 1):
            faults.append(problem("iscrowd {} must be 0 or 1", shown(crowd)))
        area = entry.get("area")
        if area is not None and not (is_finite(area) and area >= 0):
            faults.append(problem("area {} must be a finite number from 0", shown(area)))
        record = self.images.records.get(_known(entry["image_id"]))
        if record is None:
            return faults
        box, outline = entry.get("bbox"), None
        box_fault = None if box is None else _box_fault(box, record)
        has_box = box is not None and box_fault is None and _has_area(box, record)
        if box_fault is not None:
            faults.append(box_fault)
        elif self.masks or not has_box:
            outline, outline_fault = self._outline(entry, record)
            faults += [] if outline_fault is None else [outline_fault]
        if not faults:
            self._keep(index, entry, record, outline, has_box, entries)
        return faults

    def _outline(self, entry: Mapping[str, Any], record: ImageRecord) -> tuple[Any, Problem | None]:
        """The plain outline of an entry, or what is wrong with it."""
        given = entry.get("segmentation")
        if given is None and not self.masks:
            return None, problem(
                "bbox {} has no area, and there is no segmentation", shown(entry.get("bbox"))
            )
        outline, note = plain_outline(given)
        fault = outline_problem(outline, record.height, record.width)
        if fault is not None:
            return None, fault
        self.edge_left -= edge_length(outline)
        if self.edge_left < 0:
            return None, problem(
                "the outlines of the file are too long for its size, this one no longer fits: write them as "
                "run-length codes, or split the file"
            )
        if note is not None:
            self.bad.note(note)
        return outline, None

    def _reference_faults(self, entry: Mapping[str, Any]) -> list[Problem]:
        faults = []
        number, image = as_id(entry["id"]), as_id(entry["image_id"])
        if number is None:
            faults.append(id_problem("id", entry["id"]))
        elif number in self.used:
            faults.append(problem("this id was used by an earlier annotation"))
        else:
            self.used.add(number)
        if image is None:
            faults.append(id_problem("image_id", entry["image_id"]))
        elif image not in self.images.known:
            faults.append(problem("image_id {} is not the id of any image of the file", image))
        if self.categories is not None:
            category = as_id(entry["category_id"])
            if category is None:
                faults.append(id_problem("category_id", entry["category_id"]))
            elif category not in self.categories:
                faults.append(problem("category_id {} is not the id of any category of the file", category))
        return faults

    def _keep(
        self,
        index: int,
        entry: Mapping[str, Any],
        record: ImageRecord,
        outline: Any,
        has_box: bool,
        entries: Sequence[Any],
    ) -> None:
        """Store a sound annotation, supplying what may be missing."""
        box, area = entry.get("bbox"), entry.get("area")
        if not all(is_id(entry.get(key, 0)) for key in ("id", "image_id", "category_id")):
            self.bad.note(LENIENT_IDS)
        if "iscrowd" in entry and entry["iscrowd"] is None:
            self.bad.note("annotations whose iscrowd is null: taken as 0")
        stated = None
        if box is not None and has_box:
            stated = (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
            if reaches_past(box, record.width, record.height):
                self.bad.note("boxes that reach past their image: clipped to it where they prompt")
        else:
            self.bad.note("annotations without a bbox that has an area: taken from the mask")
        if area is None and outline is None:
            area = float(box[2]) * float(box[3]) if box is not None else 0.0
        elif area is None:
            area = mask_area(rasterise(outline, record.height, record.width))
            self.bad.note("annotations without area: counted from the mask")
        elif area > record.width * record.height or 0 < area < 1:
            self.bad.note(
                "annotations whose area is below a pixel or above all pixels of the image: small, medium and "
                "large go by it; write pixels, or leave area out"
            )
        if area == 0:  # COCO train2017 itself has one, on image 200365
            self.bad.note("annotations of area 0: no model can find them")
        crowd = entry.get("iscrowd")
        self.instances[record.id].append(
            Instance(
                id=self._id_of(entry, entries),
                image_id=record.id,
                category_id=_known(entry.get("category_id")) or 0,
                area=float(area),
                iscrowd=bool(crowd) if isinstance(crowd, bool) else bool(as_id(crowd)),
                height=record.height,
                width=record.width,
                outline=outline,
                stated_box=stated,
                place=index,
            )
        )

    def _id_of(self, entry: Mapping[str, Any], entries: Sequence[Any]) -> int:
        """The entry's id; one that no entry has in place of 0, which means "unmatched" to metric code."""
        number = as_id(entry["id"])
        if number:
            return number
        if self.spare is None:
            given = {as_id(one.get("id")) for one in entries if is_object(one)}
            largest = max((one for one in given if one is not None), default=0)
            free = largest + 1 if largest < LARGEST_ID else next(one for one in count(1) if one not in given)
            self.spare = free
        self.bad.note(f"annotation with id 0 renumbered to {self.spare}")
        return self.spare


def _known(value: Any) -> int:
    number = as_id(value)
    return -1 if number is None else number


def _has_area(box: Sequence[float], record: ImageRecord) -> bool:
    return box[2] > 0 and box[3] > 0 and has_area_inside(box, record.width, record.height)


def _box_fault(box: Any, record: ImageRecord) -> Problem | None:
    fault = box_problem(box)
    if fault is not None:
        return fault
    has_area = box[2] > 0 and box[3] > 0
    outside = has_area and lies_outside(box, record.width, record.height)
    if outside or reaches_far(box, record.width, record.height):
        return problem(
            "bbox {} is far or wholly outside the {} x {} image", shown(box), record.width, record.height
        )
    return None
