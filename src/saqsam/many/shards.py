"""Shards: files that each hold the rows of a few images, written whole or not at all.

A shard says whose it is: the identity of its run and the ids of its images. ``jsonl`` has that in its first
line, then one row a line; ``parquet`` has it in the file's metadata, then the columns ``image_id``, ``file``,
``unreadable`` and ``row`` (the row as JSON, so that no number changes on the way).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqsam.errors import RunError, UsageError
from saqsam.extras import require_parquet
from saqsam.files import atomic_write
from saqsam.many.work import Row

KINDS = ("jsonl", "parquet")
_KEY = b"saqsam"


@dataclass(frozen=True)
class Header:
    """Whose shard it is: ``identity`` of the run, and image ids in order."""

    identity: Mapping[str, Any]
    images: tuple[int, ...]


def write_shard(path: Path, identity: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write one shard; the suffix of ``path`` says in which kind."""
    header = json.dumps({"identity": identity, "images": [row["image_id"] for row in rows]})
    lines = [json.dumps(row, allow_nan=False) for row in rows]
    with atomic_write(path) as temporary:
        if path.suffix == ".jsonl":
            temporary.write_text("".join(f"{line}\n" for line in (header, *lines)), encoding="utf-8")
            return
        arrow, parquet = _arrow()
        table = arrow.table(
            {
                "image_id": arrow.array([row["image_id"] for row in rows], arrow.int64()),
                "file": arrow.array([row["file"] for row in rows], arrow.string()),
                "unreadable": arrow.array([row["unreadable"] for row in rows], arrow.string()),
                "row": arrow.array(lines, arrow.string()),
            }
        )
        parquet.write_table(table.replace_schema_metadata({_KEY: header.encode()}), temporary)


def read_header(path: Path) -> Header:
    """Whose shard it is, without reading its rows.

    Raises:
        RunError: the file is damaged or no shard.
    """
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                document = json.loads(file.readline())
        else:
            document = json.loads(_arrow()[1].read_schema(path).metadata[_KEY])
        return Header(dict(document["identity"]), tuple(int(one) for one in document["images"]))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path) from error


def read_rows(path: Path) -> list[Row]:
    """The rows of a shard.

    Raises:
        RunError: the file is damaged, or its rows are not those its header lists.
    """
    listed = read_header(path).images
    try:
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()[1:]
        else:
            lines = _arrow()[1].read_table(path, columns=["row"])["row"].to_pylist()
        rows: list[Row] = [json.loads(line) for line in lines]
        if tuple(row["image_id"] for row in rows) != listed:
            raise ValueError("rows are not those of the header")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path) from error
    return rows


def shard_files(directory: Path) -> list[Path]:
    """Every shard in a directory, by name."""
    return sorted(path for path in directory.iterdir() if path.suffix.lstrip(".") in KINDS)


def check_kind(kind: str) -> None:
    """Whether shards of this kind can be written here.

    Raises:
        UsageError: no such kind, or its library is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"--shards {kind}: expected {' or '.join(KINDS)}")
    if kind == "parquet":
        _arrow()


def _arrow() -> tuple[Any, Any]:
    require_parquet()
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet


def _damaged(path: Path) -> RunError:
    return RunError(f"{path}: this shard is damaged; delete it and run the same command again")
