"""A directory that holds a quantization while it runs.

::

    run.json               what is being made: recipe, hashes of model and inputs; written once
    command.json           how it was asked for, for ``saqsam resume``; written by the command line
    parts/NAME.safetensors one file for each finished part (calibration, each unit), written at its end
    finished.json          the packed file that came of it, its hash, seconds by stage; by the command line
    losses.jsonl           loss of every step so far, one JSON object a line
    activations/           what does not fit into ``--cache-gb`` of memory; only while a process works here
    lock                   held by the process that is working here

A part is there completely or not at all, so a run may be killed at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from saqsam.errors import RunError, RunMismatch
from saqsam.files import atomic_write
from saqsam.jobs.identity import differences
from saqsam.jobs.lock import LOCK, locked
from saqsam.jobs.tensors_file import read_tensors, write_tensors

RUN, COMMAND, PARTS, LOSSES = "run.json", "command.json", "parts", "losses.jsonl"
FINISHED = "finished.json"
_FORMAT = 1


class RunDirectory:
    """Finished parts by name, and the losses on the way; made by ``open_run``, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reused: list[str] = []

    def finished(self) -> frozenset[str]:
        """Names of the finished parts."""
        return frozenset(path.stem for path in (self.path / PARTS).glob("*.safetensors"))

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and record of a finished part, ``None`` if it has to be done.

        Raises:
            CorruptCheckpoint: its file is damaged.
        """
        path = self._part(name)
        if not path.is_file():
            return None
        self.reused.append(name)
        return read_tensors(path)

    def save(self, name: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Keep a finished part."""
        write_tensors(self._part(name), tensors, record)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the losses."""
        with (self.path / LOSSES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def forget_unfinished_losses(self) -> None:
        """Drop lines of parts that are not finished; they will be done, and logged, again."""
        path = self.path / LOSSES
        if not path.is_file():
            return
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if self._of_finished(line)]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def bytes(self) -> int:
        """What all finished parts and losses take on the disk."""
        files = [self.path / LOSSES, *(self.path / PARTS).iterdir()]
        return sum(path.stat().st_size for path in files if path.is_file())

    def _of_finished(self, line: str) -> bool:
        try:
            return self._part(json.loads(line)["unit"]).is_file()
        except (ValueError, KeyError, TypeError):
            return False  # a line cut short by a kill

    def _part(self, name: str) -> Path:
        return self.path / PARTS / f"{name}.safetensors"


@contextmanager
def open_run(path: str | Path, identity: Mapping[str, Any]) -> Iterator[RunDirectory]:
    """Begin a run in ``path``, or continue the one that is there, holding its lock.

    Args:
        path: created if missing; its parent exists.
        identity: see ``identity_of``.

    Raises:
        RunLocked: another process is working there.
        RunMismatch: it holds a run of another recipe, model or inputs; the fields are named.
        RunError: it holds other files and no run.
    """
    path = Path(path)
    path.mkdir(exist_ok=True)
    with locked(path):
        wanted = json.loads(json.dumps({"format": _FORMAT, **identity}))
        found = read_json(path / RUN)
        if found is None:
            strangers = {entry.name for entry in path.iterdir() if not entry.name.endswith(".part")}
            strangers -= {LOCK, COMMAND}
            if strangers:
                raise RunError(
                    f"{path}: holds {min(strangers)!r} and no run; name a new or an empty directory for --run"
                )
            write_json(path / RUN, wanted)
        elif found != wanted:
            raise RunMismatch(
                f"{path}: this run was begun differently: {differences(found, wanted)}; "
                "name another directory, or ask for the same again"
            )
        (path / PARTS).mkdir(exist_ok=True)
        directory = RunDirectory(path)
        directory.forget_unfinished_losses()
        yield directory


def read_json(path: Path) -> Any:
    """The document in a file, ``None`` if there is no file.

    Raises:
        RunError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: this file is damaged; begin in a new directory") from error


def write_json(path: Path, document: Any) -> None:
    """Write a document, all of it or none."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
