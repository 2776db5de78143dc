"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from saqsam.images.files import IMAGE_SUFFIXES


def image_files(folder: str | Path, *, recursive: bool = True) -> list[Path]:
    """Image files of a folder in the order of their paths, told by their endings.

    Hidden files and folders, such as the ``._x.png`` that macOS leaves on other disks, are passed over. Links
    to folders are followed, each folder once.

    Args:
        folder: an existing directory.
        recursive: look into the folders inside it too.
    """
    found = _walk(Path(folder)) if recursive else (path for path in Path(folder).iterdir())
    return sorted(path for path in found if is_image_name(path.name) and path.is_file())


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for a picture when a folder is read."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link back to where it came from
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in names)
