"""Filling a detector with the tensors of its published file: every name and shape first, then the values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from saqsam.checkpoints.reading import StoredTensor, read_checkpoint
from saqsam.errors import CheckpointError

_SHOWN = 3
_COUNTER = "num_batches_tracked"  # of batch norms; means nothing at inference
_AGAIN = "Download it again"


@dataclass(frozen=True)
class Row:
    """Where a tensor of the model lies in the published file.

    Attributes:
        name: of the tensor in the file.
        part: which of ``parts`` equal pieces of its first dimension.
        parts: pieces that the file's tensor is cut into (fused query, key and value).
        first: rows that are kept of it; None keeps all.
    """

    name: str
    part: int = 0
    parts: int = 1
    first: int | None = None


Table = Mapping[str, Row]
"""Name in the model -> where to find it."""


def plain_table(model: nn.Module, rename: Callable[[str], str] = lambda name: name) -> dict[str, Row]:
    """A table for a model whose tensors need other names at most."""
    return {name: Row(rename(name)) for name in model.state_dict() if not name.endswith(_COUNTER)}


def fill(
    model: nn.Module,
    path: Path,
    table: Table,
    ignored: Callable[[str], bool] = lambda name: False,
    what: str = "this detector",
    device: str = "cpu",
) -> None:
    """Put the values of a published file into a model laid out on the meta device or elsewhere.

    Args:
        model: its parameters and buffers are replaced; afterwards it is in eval mode, without gradients.
        path: the published ``.pth``, or its tensors as ``.safetensors``.
        table: for every tensor of the model's state, its place in the file. Tensors of the model that are
            in no table are left alone; a batch norm's counter needs none.
        ignored: names in the file that inference does not need.
        what: the detector's name, for messages.
        device: where the values go.

    Raises:
        UnsafeCheckpoint, CorruptCheckpoint: as ``models.checkpoint.read_checkpoint``.
        CheckpointError: missing, unexpected or misshapen tensors, values that are not finite.
    """
    # Training scripts store their options beside the weights; a Namespace of plain values does nothing.
    checkpoint = read_checkpoint(path, also=(argparse.Namespace,), legacy=True)
    stored = {name: one for name, one in checkpoint.tensors.items() if not name.endswith(_COUNTER)}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name in table}
    _check_names(path, table, stored, ignored, what)
    values: dict[str, Tensor] = {}
    for name, tensor in wanted.items():
        row = table[name]
        values[name] = _checked(path, stored[row.name], row, tuple(tensor.shape)).to(device)
    counters = {
        name: torch.zeros((), dtype=torch.int64, device=device)
        for name in model.state_dict()
        if name.endswith(_COUNTER)
    }
    model.load_state_dict({**values, **counters}, strict=False, assign=True)
    model.train(False)
    model.requires_grad_(False)


def _check_names(
    path: Path,
    table: Table,
    stored: Mapping[str, StoredTensor],
    ignored: Callable[[str], bool],
    what: str,
) -> None:
    used = {row.name for row in table.values()}
    missing = sorted(used - set(stored))
    unexpected = sorted(name for name in stored if name not in used and not ignored(name))
    problems = [
        f"{len(names)} tensors are {kind} ({_some(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            path,
            f"not the weights of {what}: {' and '.join(problems)}",
            "See 'saqsam detect --help' for the detectors and docs/detectors.md for their files",
        )


def _checked(path: Path, stored: StoredTensor, row: Row, shape: tuple[int, ...]) -> Tensor:
    """The values of one tensor as float32 in memory of their own."""
    rows = stored.shape[0] if stored.shape else 0
    if row.parts > 1:
        held: tuple[int, ...] = (rows // row.parts, *stored.shape[1:])
    elif row.first is not None:
        held = (min(rows, row.first), *stored.shape[1:])
    else:
        held = stored.shape
    if held != shape or rows % row.parts:
        expected = (shape[0] * row.parts, *shape[1:]) if row.parts > 1 else shape
        raise CheckpointError(
            path,
            f"'{row.name}' has shape {stored.shape}, expected {expected}",
            "It belongs to another size or to other classes; see docs/detectors.md",
        )
    if not stored.dtype.is_floating_point:
        raise CheckpointError(
            path, f"'{row.name}' is stored as {stored.dtype}, not as floating point", "Give float weights"
        )
    values = stored.read()
    if row.parts > 1:
        values = values.chunk(row.parts)[row.part]
    elif row.first is not None:
        values = values[: row.first]
    values = values.to(torch.float32, copy=True).contiguous()
    if not bool(values.isfinite().all()):
        raise CheckpointError(path, f"'{row.name}' holds values that are NaN or infinite", _AGAIN)
    return values


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if names[_SHOWN:] else "")
