"""Runs that are over: what came of them, so that nobody is told to rename a finished file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.output import print_json, print_lines
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.sam import Sam


def note_finished(run: Path, out: Path, quantized: Sam) -> None:
    """Keep in a run directory what came of it: the file, its hash, and seconds by stage."""
    from saqsam.jobs.directory import FINISHED, write_json

    seconds = {} if quantized.log is None else quantized.log.seconds
    write_json(
        run / FINISHED,
        {
            "out": str(out.absolute()),
            "sha256": _sha256(out),
            "seconds": {stage: round(took, 3) for stage, took in seconds.items()},
        },
    )


def finished_file(run: Path, out: Path) -> bool:
    """Whether ``out`` is there and is, byte for byte, what came of the run.

    Raises:
        RunError: what the directory says of it is damaged.
    """
    from saqsam.jobs.directory import FINISHED, read_json

    record: Any = read_json(run / FINISHED)
    return isinstance(record, dict) and out.is_file() and record.get("sha256") == _sha256(out)


def check_unfinished(run: Path, out: Path) -> None:
    """Say it where ``quantize`` is asked again for what is there.

    Raises:
        UsageError: the run is finished, and the file is its result.
    """
    if finished_file(run, out):
        raise UsageError(
            f"--run {run}: this run is finished and {out} is its result; to make another, name another "
            "directory, or add --force to write the same file again"
        )


def say_finished(run: Path, out: Path, json: bool) -> None:
    """Nothing is left to do."""
    if json:
        print_json({"run": str(run), "finished": True, "out": str(out), "file_bytes": out.stat().st_size})
    else:
        print_lines([f"{run}: this run is finished, nothing was left to do; its result is {out}"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
