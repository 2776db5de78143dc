"""The images of a COCO document: entries judged, their files found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from saqsam.datasets.bad_entries import BadEntries, Fault, Problem, problem
from saqsam.datasets.fields import as_id, id_problem, is_id, is_object, missing_fields, shown
from saqsam.datasets.instances import ImageRecord
from saqsam.datasets.picture_files import PictureFiles
from saqsam.errors import ImageError
from saqsam.images.files import MAX_PIXELS
from saqsam.images.headers import stated_size

BELIEVED_PIXELS = 16_000_000
"""A stated size above this is held against the file at once, since masks are drawn at the stated size."""
LENIENT_IDS = "ids written as text or with a decimal point: read as the integers they are"


class ImageEntries:
    """Reads the list ``images``.

    Args:
        folder: that holds the files.
        bad: what becomes of bad entries.
        limit: read entries only until this many are good; None for all.

    Attributes:
        records: image id to the good entries, in the order of the list.
        known: ids of all entries, good or not, read or not.
        left_out: ids of bad ones.
        faults: what is wrong with the bad ones.
    """

    def __init__(self, folder: Path, bad: BadEntries, limit: int | None) -> None:
        self.bad, self.limit = bad, limit
        self.files = PictureFiles(folder)
        self.folder = folder
        self.records: dict[int, ImageRecord] = {}
        self.known: set[int] = set()
        self.left_out: set[int] = set()
        self.faults: list[Fault] = []
        self._used: dict[PurePosixPath, str] = {}

    def read(self, entries: Sequence[Any]) -> None:
        """Judge entries one by one, and keep the good ones."""
        for index, entry in enumerate(entries):
            number = as_id(entry.get("id")) if is_object(entry) else None
            if self.limit is not None and len(self.records) + self._stopped() >= self.limit:
                if number is not None:
                    self.known.add(number)
                continue
            name = entry_name("image", index, entry)
            found = self._judge(entry) if is_object(entry) else [not_an_object(entry)]
            self.faults += [Fault(name, fault) for fault in found]
            if number is not None:
                if found and number not in self.records:
                    self.left_out.add(number)
                self.known.add(number)

    def _stopped(self) -> int:
        """Entries that count as read though they are bad: all of them, unless bad ones are left out."""
        return 0 if self.bad.skip else len(self.left_out)

    def _judge(self, entry: Mapping[str, Any]) -> list[Problem]:
        """Keep a good entry; what is wrong with a bad one."""
        missing = missing_fields(entry, ("id", "width", "height"))
        name = entry.get("file_name")
        if name is None and isinstance(entry.get("coco_url"), str):
            name = unquote(entry["coco_url"].partition("?")[0].rpartition("/")[2])
        elif "file_name" not in entry:
            missing.append(problem("field 'file_name' is missing"))
        if missing:
            return missing
        number = as_id(entry["id"])
        faults = []
        if number is None:
            faults.append(id_problem("id", entry["id"]))
        elif number in self.known:
            faults.append(problem("this id was used by an earlier image"))
        width, height = as_id(entry["width"], 1), as_id(entry["height"], 1)
        if width is None or height is None or width * height > MAX_PIXELS:
            faults.append(
                problem(
                    "width {}, height {}: both must be integers from 1, and their product at most {}",
                    shown(entry["width"]),
                    shown(entry["height"]),
                    f"{MAX_PIXELS:,}",
                )
            )
        path = self._file(name)
        if isinstance(path, Problem):
            faults.append(path)
        if faults or isinstance(path, Problem) or number is None or width is None or height is None:
            return faults
        record = ImageRecord(number, self.folder / path, str(path), width, height)
        if width * height > BELIEVED_PIXELS and (fault := _size_problem(record)) is not None:
            return [fault]
        if not is_id(entry["id"]):
            self.bad.note(LENIENT_IDS)
        if entry.get("file_name") is None:
            self.bad.note("images without file_name: the last part of coco_url is their name")
        elif name != str(path):
            self.bad.note("file names written otherwise than the files are: the one file that fits was taken")
        self.records[number] = record
        self._used[path] = str(name)
        return []

    def _file(self, name: Any) -> PurePosixPath | Problem:
        path = self.files.find(name)
        if isinstance(path, Problem) or path not in self._used:
            return path
        if self._used[path] == name:
            return problem("file_name {} was listed by an earlier image", shown(name))
        return problem(
            "file_name {} means {}, as does {} of an earlier image: write which file each one is",
            shown(name),
            shown(str(path)),
            shown(self._used[path]),
        )


def _size_problem(record: ImageRecord) -> Problem | None:
    """Why a file cannot be an image of its stated size, or None; a camera's rotation tag may turn it."""
    try:
        width, height = stated_size(record.path)
    except ImageError as error:
        return problem("file {} {}", shown(record.file_name), error.reason)
    if (width, height) in ((record.width, record.height), (record.height, record.width)):
        return None
    return problem(
        "width {}, height {}, but the file has {} x {} pixels: write its own size",
        record.width,
        record.height,
        width,
        height,
    )


def entry_name(noun: str, index: int, entry: Any) -> str:
    """An entry as messages name it: its place in the list, and its id where it has one."""
    number = entry.get("id") if is_object(entry) else None
    return f"{noun} {index}" + (f" (id {number})" if is_id(number) else "")


def not_an_object(entry: Any) -> Problem:
    """Why a list entry that is no JSON object cannot be read."""
    return problem("{} is not an object", shown(entry))
