"""Oriented boxes as DOTA's evaluation server takes them: ``Task1_<class>.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saqsam.datasets.instances import InstanceSet
from saqsam.errors import UsageError
from saqsam.files import atomic_write
from saqsam.tasks.dota_labels import is_class_name
from saqsam.tasks.oriented_ap import OrientedDetection


def write_task1(
    directory: str | Path, listing: InstanceSet, detections: Sequence[OrientedDetection]
) -> list[Path]:
    """Write one file for each class: ``image score x1 y1 x2 y2 x3 y3 x4 y4``, image names without ending.

    Args:
        directory: existing folder.
        listing: images and categories; a class without detections gets an empty file.
        detections: of all images and classes.

    Raises:
        UsageError: a category's name cannot be part of a file name.
    """
    directory = Path(directory)
    stems = {image.id: image.path.stem for image in listing.images}
    written = []
    for key, name in listing.categories.items():
        if not is_class_name(name):
            raise UsageError(f"category {name!r} cannot name a Task1 file: use letters, digits, '-', '_'")
        rows = sorted((one for one in detections if one.category_id == key), key=lambda one: -one.score)
        path = directory / f"Task1_{name}.txt"
        with atomic_write(path) as temporary:
            temporary.write_text("".join(_line(stems[one.image_id], one) for one in rows), encoding="utf-8")
        written.append(path)
    return written


def _line(stem: str, one: OrientedDetection) -> str:
    corners = " ".join(f"{value:.2f}" for value in one.corners.ravel())
    return f"{stem} {one.score:.6f} {corners}\n"
