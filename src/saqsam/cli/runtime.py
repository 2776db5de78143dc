"""``--runtime``: who computes a packed model, in simulation or in integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saqsam.engines.names import ENGINES, TORCH
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.sam import Sam

RuntimeOption = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="torch: integers simulated. onnxruntime: packed files in integers, on the CPU. "
        "int8: packed files, linear layers in int8 by PyTorch. compiled: as int8, with the encoder compiled "
        "for this machine, attention in half precision.",
        metavar="|".join(ENGINES),
    ),
]


def check_runtime(runtime: str) -> str:
    """The name, if there is such a runtime.

    Raises:
        UsageError: there is none.
    """
    if runtime not in ENGINES:
        raise UsageError(f"--runtime {runtime}: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    return runtime


def check_not_sharded(runtime: str, sharded: bool) -> None:
    """Shards are continued by what computed them, and only PyTorch's models are identified so far.

    Raises:
        UsageError: shards of another runtime.
    """
    if sharded and check_runtime(runtime) != TORCH:
        raise UsageError(f"--runtime {runtime}: finished images are kept in shards by --runtime torch only")


def load_for(runtime: str, model: str, device: str) -> Sam:
    """``api.load`` of a model to be computed by ``runtime``.

    Raises:
        UsageError: no such runtime, or it cannot compute this model.
    """
    from saqsam import api

    return api.load(model, device=device, engine=check_runtime(runtime))


def load_where_packed(runtime: str, model: str, device: str) -> Sam:
    """The same among several models: a float one is computed by PyTorch in any case."""
    from saqsam.drop_in.directory import packed_file
    from saqsam.pack.file import is_packed

    packed = is_packed(packed_file(model) or Path(model).expanduser())
    check_runtime(runtime)
    return load_for(runtime if packed else TORCH, model, device)
