"""Finding the picture that a ``file_name`` means, where exactly one file fits it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from saqsam.datasets.bad_entries import Problem, problem
from saqsam.datasets.fields import shown
from saqsam.images.files import IMAGE_SUFFIXES


class PictureFiles:
    """The pictures under a folder, by the names that annotation files give them.

    A name is first taken as it stands. Failing that, a file fits if its path below the folder and the name
    end alike up to the start of one of them, where slashes and backslashes, and capitals, make no
    difference: ``images/a.jpg`` under a folder ``images`` is its ``a.jpg`` or ``A.JPG``, and ``a.jpg`` may
    lie in ``train``. The folder is only listed when a name is not found as it stands.

    Args:
        folder: of the pictures; names cannot leave it, except by a link that stands in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: Any) -> PurePosixPath | Problem:
        """The path below the folder of the one file that ``name`` means, or why there is none."""
        fault = name_problem(name)
        if fault is not None:
            same = self._by_name.get(_key(_parts(name)[-1]), []) if isinstance(name, str) else []
            return Problem(fault.kind, f"{fault.text}{_is_there(same)}")
        if self._is_there(name):
            return PurePosixPath(name)
        parts = _parts(name)
        same = self._by_name.get(_key(parts[-1]), [])
        fitting = [path for path in same if _end_alike(path.parts, parts)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            some = ", ".join(shown(str(path)) for path in fitting[:3])
            return problem(
                "file_name {} means {} files in {}: {}; write which one",
                shown(name),
                len(fitting),
                self.folder,
                some,
            )
        return problem(
            "file {} is listed but is not in {}{}", shown(name), self.folder, self._nearest(parts, same)
        )

    def _nearest(self, parts: tuple[str, ...], same: list[PurePosixPath]) -> str:
        """What is there instead, and what to do about it."""
        stem = _key(PurePosixPath(parts[-1]).stem)
        near = same or self._by_stem.get(stem, [])
        if near:
            return _is_there(near)
        if not self._by_stem:
            return ", which holds no pictures: give the folder that does"
        return ": add it, or give the folder that holds it"

    def _is_there(self, name: str) -> bool:
        try:
            return (self.folder / name).is_file()
        except OSError:
            return False

    @cached_property
    def _pictures(self) -> list[PurePosixPath]:
        found = []
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            below = Path(root).relative_to(self.folder)
            for file in sorted(files):
                if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                    found.append(PurePosixPath(*below.parts, file))
        return [path for path in found if self._is_there(str(path))]

    @cached_property
    def _by_name(self) -> defaultdict[str, list[PurePosixPath]]:
        found: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for path in self._pictures:
            found[_key(path.name)].append(path)
        return found

    @cached_property
    def _by_stem(self) -> defaultdict[str, list[PurePosixPath]]:
        found: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for path in self._pictures:
            found[_key(path.stem)].append(path)
        return found


def _is_there(near: list[PurePosixPath]) -> str:
    """A hint at a file that may be meant, if there is one."""
    return f"; {shown(str(near[0]))} is there: if it is meant, write that name" if near else ""


def name_problem(name: Any) -> Problem | None:
    """Why ``name`` cannot be the name of a file inside the image folder, or None."""
    if not isinstance(name, str) or not name.strip():
        return problem("file_name {} is not the name of a file: write the picture's name", shown(name))
    if "\0" in name:
        return problem("file_name {} holds a zero byte: write the picture's name", shown(name))
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return problem(
            "file_name {} holds half of a character (a lone surrogate): write the picture's name", shown(name)
        )
    # Windows' rules are a superset: they know drives and take both slashes as separators.
    foreign = PureWindowsPath(name)
    if foreign.is_absolute() or foreign.drive or foreign.root or ".." in foreign.parts:
        return problem(
            "file_name {} leaves the image folder: names must be relative to it, without '..'", shown(name)
        )
    return None


def _parts(name: str) -> tuple[str, ...]:
    return PureWindowsPath(name).parts or (name,)


def _end_alike(path: tuple[str, ...], name: tuple[str, ...]) -> bool:
    count = min(len(path), len(name))
    return list(map(_key, path[-count:])) == list(map(_key, name[-count:]))


def _key(part: str) -> str:
    """What is alike in two spellings of one name: capitals, and accents as one character or two."""
    return unicodedata.normalize("NFC", part).casefold()
