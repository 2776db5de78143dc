"""MODEL of the verbs that need a packed one: the file it means, or what it is and how to get one."""

from __future__ import annotations

from pathlib import Path

from saqsam.errors import CheckpointError, CorruptCheckpoint
from saqsam.files import expanded, what_is_there
from saqsam.shipped.names import EMBEDDED_NAMES


def packed_argument(model: str, verb: str) -> Path:
    """The packed file that MODEL means: itself, the one of a saved directory, or of a hub id.

    Args:
        model: as the user wrote it.
        verb: for the message.

    Raises:
        CheckpointError: there is no such thing, or it is a float model; the message says how to pack one.
    """
    from saqsam.checkpoints.load import at_hand
    from saqsam.drop_in.directory import packed_file
    from saqsam.pack.file import is_packed

    pack = (
        f"{verb} reads packed models: write one with 'saqsam quantize {model} --recipe saq-sam-star "
        "--images PHOTOS --out FILE'"
    )
    if model in EMBEDDED_NAMES:
        raise CheckpointError(model, "is a float model", pack)
    source = expanded(at_hand(model))
    path = packed_file(source) or source
    if is_packed(path):
        return path
    if path.is_dir():
        if (path / "config.json").is_file():
            raise CheckpointError(model, "is the directory of a float model", pack)
        raise CheckpointError(model, "is a directory without a model in it", "Name the packed file")
    if not path.is_file():
        raise CheckpointError(
            model, what_is_there(path), f"{verb} reads packed files, which 'saqsam quantize' writes"
        )
    _check_float(path, model)
    raise CheckpointError(model, "is a file of float weights, not a packed model", pack)


def _check_float(path: Path, model: str) -> None:
    """Say it where a file is neither packed nor weights at all, rather than advise to quantize it."""
    from saqsam.checkpoints.reading import read_checkpoint

    try:
        read_checkpoint(path, nested=True)
    except CorruptCheckpoint as error:
        problem = f"not an intact packed file, and no other weights either: {error.problem}"
        raise CorruptCheckpoint(model, problem, error.hint) from error
