"""DOTA label files: one object a line, eight coordinates, a class, and whether it is difficult.

Xia et al., "DOTA: A Large-scale Dataset for Object Detection in Aerial Images" (2018). A file may begin with
``imagesource:`` and ``gsd:`` lines; then ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, in pixels of the image.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saqsam.datasets.bad_entries import BadEntries, Fault, Problem, problem
from saqsam.datasets.fields import shown
from saqsam.errors import AnnotationError
from saqsam.tasks.oriented_boxes import polygon_area

CLASSES = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
"""The 15 classes of DOTA-v1.0 in their usual order."""

MAX_BYTES = 64 << 20
_HEADER = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)
# A class name becomes part of a file name, Task1_<class>.txt.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_FARTHEST = 1e6


@dataclass(frozen=True)
class DotaObject:
    """One line of a label file.

    Attributes:
        polygon: ``(4, 2)`` float64 x, y in pixels of the image.
        category: name of the class.
        difficult: neither right nor wrong when it is found.
        line: its line in the file, from 1.
    """

    polygon: npt.NDArray[np.float64]
    category: str
    difficult: bool
    line: int


def read_dota_labels(
    path: str | Path, *, bad: BadEntries | None = None, max_bytes: int = MAX_BYTES
) -> list[DotaObject]:
    """Read one label file; an empty one means an image without objects.

    Args:
        path: text file.
        bad: what becomes of bad lines, and where those left out are listed; None stops at them.
        max_bytes: refuse a longer one.

    Raises:
        AnnotationError: unreadable, not UTF-8, or lines that are no objects, counted by kind; the first of
            each kind is named by its number.
    """
    path = Path(path)
    faults: list[Fault] = []
    objects = []
    for number, line in enumerate(_lines(path, max_bytes), start=1):
        if not line.strip() or (number <= 2 and _HEADER.match(line.strip())):
            continue
        found = _object(line.split(), number)
        if isinstance(found, Problem):
            faults.append(Fault(f"line {number}", found))
        else:
            objects.append(found)
    (BadEntries(offered=False) if bad is None else bad).resolve(path, faults)
    return objects


def is_class_name(text: str) -> bool:
    """True for a name that a label file may use and that can be part of a file name."""
    return _NAME.fullmatch(text) is not None


def _lines(path: Path, max_bytes: int) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise AnnotationError(path, [f"cannot be read ({error.strerror}); check the path"]) from error
    if len(content) > max_bytes:
        raise AnnotationError(
            path, [f"longer than the limit of {max_bytes / 1e6:,.0f} MB; is it a label file?"]
        )
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(path, [f"not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error


def _object(words: list[str], number: int) -> DotaObject | Problem:
    """The object of one line, or what is wrong with the line."""
    if len(words) not in (9, 10):
        wanted = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
        return problem("{} fields, expected " + wanted + " ({})", len(words), shown(" ".join(words)))
    try:
        corners = [float(word) for word in words[:8]]
    except ValueError:
        return problem("the first eight fields must be numbers, got {}", shown(" ".join(words[:8])))
    if not all(math.isfinite(value) and abs(value) <= _FARTHEST for value in corners):
        return problem("a coordinate is not a finite number of pixels: {}", shown(" ".join(words[:8])))
    polygon = np.array(corners, dtype=np.float64).reshape(4, 2)
    if polygon_area(polygon) <= 0:
        return problem("its corners enclose no area: {}", shown(" ".join(words[:8])))
    if not is_class_name(words[8]):
        return problem("{} is no class name (letters, digits, '-', '_', '.', '+')", shown(words[8]))
    difficult = words[9] if len(words) == 10 else "0"
    if difficult not in ("0", "1"):
        return problem("difficult must be 0 or 1, got {}", shown(difficult))
    return DotaObject(polygon, words[8], difficult == "1", number)
