"""From shards to all rows in the order of the work list, or a refusal that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqsam.errors import RunError, RunMismatch
from saqsam.jobs.identity import differences
from saqsam.many.shards import read_header, read_rows, shard_files
from saqsam.many.work import Row

_SHOWN = 20


@dataclass(frozen=True)
class Merged:
    """One row for each image.

    Attributes:
        rows: in the order of the work list.
        duplicates: rows that were there more than once and dropped; of several, the first shard's was kept.
    """

    rows: list[Row]
    duplicates: int


def finished(directory: Path, identity: Mapping[str, Any]) -> set[int]:
    """Ids of the images in the shards of a directory.

    Raises:
        RunMismatch: a shard belongs to another run. RunError: one is damaged.
    """
    found: set[int] = set()
    for path in shard_files(directory):
        header = read_header(path)
        _check_owner(path, header.identity, identity)
        found.update(header.images)
    return found


def merge(directory: Path, identity: Mapping[str, Any], images: Sequence[int]) -> Merged:
    """Read every shard of a directory.

    Args:
        directory: where the shards are.
        identity: of the run they must belong to.
        images: ids of all images, in order.

    Raises:
        RunMismatch: a shard belongs to another run; the fields are named.
        RunError: images are missing, or none of this run's; they are named. Or a shard is damaged.
    """
    rows: dict[int, Row] = {}
    duplicates = 0
    for path in shard_files(directory):
        _check_owner(path, read_header(path).identity, identity)
        for row in read_rows(path):
            duplicates += row["image_id"] in rows
            rows.setdefault(row["image_id"], row)
    missing = [one for one in images if one not in rows]
    if missing:
        raise RunError(
            f"{directory}: no shard has {len(missing)} of {len(images)} images: ids {_named(missing)}; "
            "run the same command again to do them"
        )
    strangers = sorted(set(rows) - set(images))
    if strangers:
        raise RunError(
            f"{directory}: shards hold images that were not asked for; begin in a new directory: "
            f"ids {_named(strangers)}"
        )
    return Merged([rows[one] for one in images], duplicates)


def _check_owner(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found != wanted:
        raise RunMismatch(
            f"{path}: this shard belongs to another run: {differences(found, wanted)}; "
            "take it away, or name another directory"
        )


def _named(ids: Sequence[int]) -> str:
    more = len(ids) - _SHOWN
    return ", ".join(map(str, ids[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
