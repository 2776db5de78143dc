"""What a command writes is nothing that it reads: ``--force`` replaces results, no picture and no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saqsam.errors import UsageError

_WRITTEN = frozenset(("out", "overlay", "html", "show_dir", "task1_dir"))
"""Parameters of commands that name what is written; all others that name something name what is read."""
_CONFIG = "config.json"
"""Makes a directory a model's, whose files all belong to it."""


def refuse_replacing(given: Mapping[str, Any]) -> None:
    """Refuse a command line whose results would replace something that it reads.

    Args:
        given: parameter name to value; words that name no path that exists do not matter.

    Raises:
        UsageError: an output is an input, the folder of the inputs, or a file of a model's directory.
    """
    read = [path for name, value in given.items() if name not in _WRITTEN for path in _existing(value)]
    for name in sorted(_WRITTEN & set(given)):
        for path in _existing(given[name]):
            if any(_is_part_of(path, one) for one in read):
                raise UsageError(
                    f"{path}: is read by this command and would be replaced; write somewhere else"
                )


def _existing(value: Any) -> Iterator[Path]:
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str | Path) and os.path.exists(one):
            yield Path(one)


def _is_part_of(path: Path, read: Path) -> bool:
    if os.path.samefile(path, read):
        return True
    return (read / _CONFIG).is_file() and read.resolve() in path.resolve().parents
