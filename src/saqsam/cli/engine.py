"""``--engine``: who computes a packed model, in simulation or in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saqsam.engines.names import ENGINES, TORCH
from saqsam.errors import UsageError
from saqsam.files import expanded

if TYPE_CHECKING:
    from saqsam.sam import Sam

EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="torch: integers simulated. onnxruntime: packed files in integers, on the CPU. "
        "native: packed files in integers, the encoder on saqsam's own kernels. "
        "int8: packed files, linear layers in int8 by PyTorch. compiled: as int8, with the encoder compiled "
        "for this machine, attention in half precision.",
        metavar="|".join(ENGINES),
    ),
]


def check_engine(engine: str) -> str:
    """The name, if there is such an engine.

    Raises:
        UsageError: there is none.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    return engine


def check_not_sharded(engine: str, sharded: bool) -> None:
    """Shards are continued by what computed them, and only PyTorch's models are identified so far.

    Raises:
        UsageError: shards of another engine.
    """
    if sharded and check_engine(engine) != TORCH:
        raise UsageError(f"--engine {engine}: finished images are kept in shards by --engine torch only")


def load_for(engine: str, model: str, device: str) -> Sam:
    """``api.load`` of a model to be computed by ``engine``.

    Raises:
        UsageError: no such engine, or it cannot compute this model.
    """
    from saqsam import api

    return api.load(model, device=device, engine=check_engine(engine))


def load_where_packed(engine: str, model: str, device: str) -> Sam:
    """The same among several models: a float one is computed by PyTorch in any case."""
    from saqsam.drop_in.directory import packed_file
    from saqsam.pack.file import is_packed

    packed = is_packed(packed_file(model) or expanded(model))
    check_engine(engine)
    return load_for(engine if packed else TORCH, model, device)
