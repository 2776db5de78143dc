"""``export``: two ONNX files and the proof that they are the model, all of them or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.errors import CheckpointError, InvariantError, SaqsamError, UsageError
from saqsam.extras import require_onnx
from saqsam.files import atomic_write, stop_if_full
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.pack.file import PackedModel

if TYPE_CHECKING:
    from saqsam.export.parity import Case, Parity
    from saqsam.families.record import Model

ENCODER, DECODER, PARITY = "encoder.onnx", "decoder.onnx", "parity.json"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        directory: of the files.
        bytes: size of each file by its name.
        parity: what was compared, or ``None`` where verification was declined.
    """

    directory: Path
    bytes: dict[str, int]
    parity: Parity | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        parity = None if self.parity is None else self.parity.to_dict()
        return {"directory": str(self.directory), "bytes": self.bytes, "parity": parity}


def export_onnx(
    packed: PackedModel,
    model: Model,
    directory: str | Path,
    cases: Sequence[Case],
    *,
    opset: int = OPSETS[0],
    verify: bool = True,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Exported:
    """Write ``encoder.onnx``, ``decoder.onnx`` and ``parity.json``.

    Args:
        packed: contents of a packed file.
        model: the audited model of that file, on the CPU; what the graphs are compared with.
        directory: created if missing; files of these names in it are replaced.
        cases: images and prompts to compare on.
        opset: 21, 22 or 23.
        verify: compare before anything is written; ``parity.json`` says so where it was not done.
        progress: called with a stage's name, steps done and steps in total.

    Raises:
        UsageError: onnx is not installed, or the opset is not supported.
        InvariantError: the graphs do not give the model's masks; nothing was written.
        SaqsamError: the files cannot be written; none of them is left.
    """
    require_onnx()
    from saqsam.graphs.portable import Portable

    progress("build", 0, 1)
    graphs = [graph.SerializeToString() for graph in build_graphs(packed, opset, Portable)]
    progress("build", 1, 1)
    parity = _verified(packed, model, graphs, cases, opset, progress) if verify else None
    contents = dict(zip((ENCODER, DECODER), graphs, strict=True))
    proof = {
        "verified": verify,
        "opset": opset,
        "recipe": packed.recipe,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "parity": None if parity is None else parity.to_dict(),
    }
    contents[PARITY] = (json.dumps(proof, indent=2) + "\n").encode()
    write_together(Path(directory), contents)
    return Exported(Path(directory), {name: len(data) for name, data in contents.items()}, parity)


def _verified(
    packed: PackedModel,
    model: Model,
    graphs: list[bytes],
    cases: Sequence[Case],
    opset: int,
    progress: Callable[[str, int, int], None],
) -> Parity:
    import onnx

    from saqsam.export.parity import check_parity
    from saqsam.graphs.portable import Portable
    from saqsam.graphs.session import open_session
    from saqsam.graphs.writers import writers_of

    if not cases:
        raise UsageError("verification needs at least one image with a prompt; give some, or --no-verify")
    for data in graphs:
        try:
            onnx.checker.check_model(data, full_check=True)
        except onnx.checker.ValidationError as error:
            raise InvariantError("export", f"the graph breaks a rule of ONNX ({error})") from error
    encoder, decoder = (
        open_session(data, name) for data, name in zip(graphs, (ENCODER, DECODER), strict=True)
    )
    writers = writers_of(packed)
    stand_in = writers.model(model.config, encoder, decoder, "export")
    return check_parity(model, stand_in, cases, writers.source(packed), Portable, opset, progress)


def write_together(directory: Path, contents: dict[str, bytes]) -> None:
    """Write several files into a directory, all of them or none; names may lie in folders of it.

    Raises:
        SaqsamError: the disk is read-only, or the directory cannot be made. OutOfDisk: there is no room.
    """
    existed = directory.is_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # Everything is on the disk before the first file gets its name.
            for name, data in contents.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(atomic_write(directory / name)).write_bytes(data)
    except OSError as error:
        _remove_empty(directory, contents, itself=not existed)
        stop_if_full(directory, error)
        raise SaqsamError(
            f"{directory}: cannot be written ({error.strerror or error}); no file was left there. "
            "Choose another directory"
        ) from error


def _remove_empty(directory: Path, names: Iterable[str], *, itself: bool) -> None:
    """Remove the folders of ``names`` in a directory as far as they are empty, and the directory likewise."""
    folders = {directory / Path(name).parent for name in names} - {directory}
    for folder in [*sorted(folders, reverse=True), *([directory] if itself else [])]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_files(directory: str | Path) -> dict[str, Any]:
    """See that the files of an export are those that were verified.

    Returns:
        The contents of ``parity.json``.

    Raises:
        CheckpointError: a file is missing, or was changed since it was exported.
    """
    directory = Path(directory)
    try:
        proof: dict[str, Any] = json.loads((directory / PARITY).read_text(encoding="utf-8"))
        hashes = dict(proof["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            directory / PARITY, "is missing or damaged, so the export cannot be trusted", "Export it again"
        ) from error
    for name in (ENCODER, DECODER):
        try:
            found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(
                directory / name, f"cannot be read ({error.strerror})", "Export it again"
            ) from error
        if found != hashes.get(name):
            raise CheckpointError(
                directory / name, "is not the file that was verified: its SHA-256 differs", "Export it again"
            )
    return proof
