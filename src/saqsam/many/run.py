"""A run over many images: begin or continue a directory of shards, do what is missing, merge.

::

    run.json        what is being done: recipe, hashes of model, images and prompts; written once
    shards/         one file for each few images, see ``saqsam.many.shards``
    lock            held by the process that is working here
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saqsam.errors import RunError, RunMismatch
from saqsam.jobs.directory import read_json, write_json
from saqsam.jobs.identity import differences
from saqsam.jobs.lock import LOCK, locked
from saqsam.many.merge import Merged, finished, merge
from saqsam.many.shards import check_kind, shard_files, write_shard
from saqsam.many.work import Chunk, Item, Job, Row, chunks

RUN, SHARDS = "run.json", "shards"
_FORMAT = 1


@dataclass(frozen=True)
class ShardWriter:
    """Where and how shards are written; travels to the workers."""

    directory: Path
    kind: str
    identity: Mapping[str, Any]

    def __call__(self, chunk: Chunk, answer: Callable[[Item], Row]) -> None:
        """Do a chunk and write its shard, unless it is there: a worker may be given a chunk twice."""
        path = self.directory / f"{chunk.name}.{self.kind}"
        if not path.exists():
            write_shard(path, self.identity, [answer(item) for item in chunk.items])


class Engine(Protocol):
    """Does chunks somewhere."""

    def __call__(self, job: Job, todo: Sequence[Chunk], write: ShardWriter) -> Iterator[int]:
        """Yield the number of images of every chunk that is done."""
        ...


def local(job: Job, todo: Sequence[Chunk], write: ShardWriter) -> Iterator[int]:
    """The engine that works in this process, one image after another."""
    answer = job.start()
    for chunk in todo:
        write(chunk, answer)
        yield len(chunk.items)


def run_many(
    job: Job,
    items: Sequence[Item],
    identity: Mapping[str, Any],
    directory: Path,
    *,
    engine: Engine = local,
    kind: str = "jsonl",
    images_each: int = 8,
    afresh: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Do every item once, as far as it is not done yet, and merge.

    Args:
        job: what is done with an image.
        items: images with unique ids.
        identity: see ``identity_of``; a directory continues the run it was begun for, and no other.
        directory: created if missing; its parent exists.
        engine: who works.
        kind: of the shards, ``jsonl`` or ``parquet``.
        images_each: images in a shard; a lost worker or a killed run loses at most one shard each.
        afresh: forget a run that is there.
        progress: called with images done and in total.

    Raises:
        RunMismatch: the directory, or a shard in it, belongs to another run; the fields are named.
        RunLocked: another process is working there. RunError: a gap, or a damaged shard.
    """
    check_kind(kind)
    directory.mkdir(exist_ok=True)
    wanted = json.loads(json.dumps(identity))
    with locked(directory):
        shards = _begin(directory, wanted, afresh)
        done = finished(shards, wanted)
        todo = [one for one in chunks(items, images_each) if not done.issuperset(one.ids)]
        count = len(items) - sum(len(one.items) for one in todo)
        progress(count, len(items))
        if todo:
            for more in engine(job, todo, ShardWriter(shards.absolute(), kind, wanted)):
                count += more
                progress(count, len(items))
        return merge(shards, wanted, [item.image.id for item in items])


def _begin(directory: Path, wanted: Mapping[str, Any], afresh: bool) -> Path:
    """Check or write ``run.json``; return the directory of shards."""
    shards = directory / SHARDS
    if afresh and shards.is_dir():
        (directory / RUN).unlink(missing_ok=True)
        for path in shard_files(shards):
            path.unlink()
    found = read_json(directory / RUN)
    if found is None:
        strangers = {one.name for one in directory.iterdir() if not one.name.endswith(".part")}
        strangers -= {LOCK, SHARDS, "results.json"} if afresh else {LOCK, SHARDS}
        if strangers:
            raise RunError(
                f"{directory}: holds {min(strangers)!r} and no run; name a new or an empty directory"
            )
        write_json(directory / RUN, {"format": _FORMAT, "identity": wanted})
    elif found != {"format": _FORMAT, "identity": wanted}:
        before = found.get("identity", found) if isinstance(found, dict) else {"run": found}
        raise RunMismatch(
            f"{directory}: this run was begun differently: {differences(before, wanted)}; "
            "name another directory, ask for the same again, or add --force to begin anew"
        )
    shards.mkdir(exist_ok=True)
    return shards
