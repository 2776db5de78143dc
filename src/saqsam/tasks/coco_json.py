"""COCO instance annotations: read, judged line by line, and only then believed.

The format: Lin et al., "Microsoft COCO: Common Objects in Context" (2014), and cocodataset.org. Every fault
listed here makes the usual metric code crash, or return a plausible wrong figure, without a word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from saqsam.errors import AnnotationError
from saqsam.images import MAX_PIXELS
from saqsam.tasks.fields import (
    box_problem,
    id_problem,
    is_finite,
    is_id,
    is_object,
    lies_outside,
    missing_fields,
    shown,
)
from saqsam.tasks.instance_set import ImageRecord, Instance, InstanceSet
from saqsam.tasks.outlines import mask_area, outline_problem, rasterise
from saqsam.tasks.strict_json import MAX_BYTES, read_json

Entry = dict[str, Any]


def read_instances(
    annotations: str | Path, images: str | Path, *, annotated: bool = True, max_bytes: int = MAX_BYTES
) -> InstanceSet:
    """Read a COCO ``instances`` file and the folder of its images.

    Accepted and noted: annotation id 0 (renumbered: metric code takes 0 for "unmatched"), a missing
    ``area`` (counted from the mask), an area of 0, a missing ``bbox`` or one without area (taken from the
    mask), a missing ``iscrowd`` (0). Everything else must hold: unique integer ids, known image and category
    ids, finite numbers, polygons near their image, run lengths that fill it exactly, file names inside
    ``images`` that exist.

    Args:
        annotations: the json file.
        images: folder that the ``file_name`` entries are relative to; they cannot leave it, except by a link
            that stands in it. Pixels are not read here.
        annotated: False where only images, their ids and the categories are wanted: the list ``annotations``
            may then be absent, as in COCO's ``image_info`` files. One that is there is held to every rule.
        max_bytes: longest json file that is read.

    Raises:
        AnnotationError: the file is no such JSON, or breaks a rule; all broken rules are counted and the
            first 20 shown.
    """
    path, folder = Path(annotations), Path(images)
    document = read_json(path, max_bytes=max_bytes)
    if not folder.is_dir():
        raise AnnotationError(folder, ["no such folder of images"])
    reader = _Reader(folder, annotated)
    reader.read(path, document)
    if reader.problems:
        raise AnnotationError(path, reader.problems)
    return InstanceSet(
        path=path,
        images=tuple(reader.images.values()),
        categories=reader.categories,
        instances={key: tuple(group) for key, group in reader.instances.items()},
        notes=tuple(f"{count} {what}" for what, count in reader.notes.items()),
    )


class _Reader:
    """Collects what is good and what is wrong in one document."""

    def __init__(self, folder: Path, annotated: bool) -> None:
        self.folder, self.annotated = folder, annotated
        self.problems: list[str] = []
        self.notes: Counter[str] = Counter()
        self.images: dict[int, ImageRecord] = {}
        self.categories: dict[int, str] = {}
        self.instances: defaultdict[int, list[Instance]] = defaultdict(list)
        self.seen: dict[str, set[Hashable]] = defaultdict(set)
        self.spare_id = 0

    def read(self, path: Path, document: Any) -> None:
        if not is_object(document):
            kind = "a list: is it a detections file?" if isinstance(document, list) else shown(document)
            raise AnnotationError(
                path, [f"an object with images, annotations, categories expected, got {kind}"]
            )
        if not self.annotated and "annotations" not in document:
            document = {**document, "annotations": []}
        for name in ("images", "categories", "annotations"):
            if not isinstance(document.get(name), list):
                what = "is missing" if name not in document else "is not a list"
                self.problems.append(f"the list {name!r} {what}")
        if self.problems:
            return
        if not document["images"]:
            self.problems.append("the list 'images' is empty")
        self._each(document["images"], "image", ("id", "file_name", "width", "height"), self._image)
        self._each(document["categories"], "category", ("id", "name"), self._category)
        ids = [entry.get("id") for entry in document["annotations"] if is_object(entry)]
        self.spare_id = max((one for one in ids if is_id(one)), default=0) + 1
        wanted = ("id", "image_id", "category_id", "segmentation")
        self._each(document["annotations"], "annotation", wanted, self._annotation)

    def _each(
        self, entries: list[Any], noun: str, wanted: tuple[str, ...], take: Callable[[Entry], Iterator[str]]
    ) -> None:
        """Run ``take`` over well-formed entries; what it yields are problems of that entry."""
        for index, entry in enumerate(entries):
            if not is_object(entry):
                self.problems.append(f"{noun} {index}: {shown(entry)} is not an object")
                continue
            name = f"{noun} {index}" + (f" (id {entry['id']})" if is_id(entry.get("id")) else "")
            found = missing_fields(entry, wanted) or list(take(dict(entry)))
            self.problems += [f"{name}: {problem}" for problem in found]

    def _is_new(self, noun: str, value: Hashable) -> bool:
        known = self.seen[noun]
        before = len(known)
        known.add(value)
        return len(known) > before

    def _category(self, entry: Entry) -> Iterator[str]:
        if not is_id(entry["id"]):
            yield id_problem("id", entry["id"])
        elif not self._is_new("category", entry["id"]):
            yield "this id was used by an earlier category"
        elif not isinstance(entry["name"], str):
            yield f"name {shown(entry['name'])} is not a string"
        else:
            self.categories[entry["id"]] = entry["name"]

    def _image(self, entry: Entry) -> Iterator[str]:
        name, width, height = entry["file_name"], entry["width"], entry["height"]
        faults = []
        if not is_id(entry["id"]):
            faults.append(id_problem("id", entry["id"]))
        elif not self._is_new("image", entry["id"]):
            faults.append("this id was used by an earlier image")
        if not (is_id(width, 1) and is_id(height, 1) and width * height <= MAX_PIXELS):
            faults.append(
                f"width {shown(width)}, height {shown(height)}: both must be integers from 1, "
                f"and their product at most {MAX_PIXELS:,}"
            )
        faults += self._file_faults(name)
        yield from faults
        if not faults:
            self.images[entry["id"]] = ImageRecord(entry["id"], self.folder / name, name, width, height)

    def _file_faults(self, name: Any) -> list[str]:
        fault = _name_problem(name)
        if fault is not None:
            return [f"file_name {shown(name)} {fault}"]
        if not self._is_new("file", name):
            return [f"file_name {shown(name)} was listed by an earlier image"]
        try:
            present = (self.folder / name).is_file()
        except OSError:
            present = False
        return [] if present else [f"file {shown(name)} is listed but is not in {self.folder}"]

    def _annotation(self, entry: Entry) -> Iterator[str]:
        faults = self._reference_faults(entry)
        crowd = entry.get("iscrowd", 0)
        if not (isinstance(crowd, int) and crowd in (0, 1)):
            faults.append(f"iscrowd {shown(crowd)} must be 0 or 1")
        if entry.get("area") is not None and not (is_finite(entry["area"]) and entry["area"] >= 0):
            faults.append(f"area {shown(entry['area'])} must be a finite number from 0")
        record = self.images.get(entry["image_id"]) if is_id(entry["image_id"]) else None
        if record is not None:
            box, outline = entry.get("bbox"), entry["segmentation"]
            found = (_box_fault(box, record), outline_problem(outline, record.height, record.width))
            faults += [fault for fault in found if fault is not None]
        yield from faults
        if not faults and record is not None:
            self._keep(entry, record)

    def _reference_faults(self, entry: Entry) -> list[str]:
        faults = []
        if not is_id(entry["id"]):
            faults.append(id_problem("id", entry["id"]))
        elif not self._is_new("annotation", entry["id"]):
            faults.append("this id was used by an earlier annotation")
        for noun in ("image", "category"):
            value = entry[f"{noun}_id"]
            if not is_id(value):
                faults.append(id_problem(f"{noun}_id", value))
            elif value not in self.seen[noun]:
                faults.append(f"{noun}_id {value} is not the id of any {noun} of the file")
        return faults

    def _keep(self, entry: Entry, record: ImageRecord) -> None:
        """Store a sound annotation, repairing what may be missing."""
        number, area, outline = entry["id"], entry.get("area"), entry["segmentation"]
        if number == 0:
            number = self.spare_id
            self.notes[f"annotation with id 0 renumbered to {number}"] += 1
        if area is None:
            area = mask_area(rasterise(outline, record.height, record.width))
            self.notes["annotations without area: counted from the mask"] += 1
        if area == 0:  # COCO train2017 itself has one, on image 200365
            self.notes["annotations of area 0: no model can find them"] += 1
        box = entry.get("bbox")
        stated = None
        if box is not None and box[2] > 0 and box[3] > 0:
            stated = (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
        else:
            self.notes["annotations without a bbox that has an area: taken from the mask"] += 1
        instance = Instance(
            id=number,
            image_id=record.id,
            category_id=entry["category_id"],
            area=float(area),
            iscrowd=bool(entry.get("iscrowd", 0)),
            height=record.height,
            width=record.width,
            outline=outline,
            stated_box=stated,
        )
        self.instances[record.id].append(instance)


def _name_problem(name: Any) -> str | None:
    """Why ``name`` cannot be the name of a file inside the image folder, or None."""
    if not isinstance(name, str) or not name.strip():
        return "is not the name of a file"
    if "\0" in name:
        return "holds a zero byte"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a character (a lone surrogate)"
    # Windows' rules are a superset: they know drives and take both slashes as separators.
    foreign = PureWindowsPath(name)
    if foreign.is_absolute() or foreign.drive or foreign.root or ".." in foreign.parts:
        return "leaves the image folder: names must be relative to it, without '..'"
    return None


def _box_fault(box: Any, record: ImageRecord) -> str | None:
    if box is None:
        return None
    fault = box_problem(box)
    if fault is None and _far_off(box, record):
        return f"bbox {shown(box)} is far or wholly outside the {record.width} x {record.height} image"
    return fault


def _far_off(box: list[float], record: ImageRecord) -> bool:
    x, y, width, height = box
    inside_x = x >= -1 and x + width <= 2 * record.width
    inside_y = y >= -1 and y + height <= 2 * record.height
    has_area = width > 0 and height > 0
    return not (inside_x and inside_y) or (has_area and lies_outside(box, record.width, record.height))
