"""``--engine``: who computes a packed model, in simulation or in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saqsam.engines.names import AUTO, ENGINES, TORCH
from saqsam.errors import UsageError
from saqsam.files import expanded

if TYPE_CHECKING:
    from saqsam.sam import Sam

EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="auto: packed files on the CPU by native, else onnxruntime, else torch, whichever can. "
        "torch: integers simulated. onnxruntime: packed files in integers, on the CPU. "
        "native: packed files in integers, on saqsam's own kernels. "
        "int8: packed files, linear layers in int8 by PyTorch. compiled: as int8, with the encoder compiled "
        "for this machine, attention in half precision.",
        metavar="|".join((AUTO, *ENGINES)),
    ),
]


def check_engine(engine: str) -> str:
    """The name, if there is such an engine.

    Raises:
        UsageError: there is none.
    """
    if engine not in (AUTO, *ENGINES):
        raise UsageError(f"--engine {engine}: expected {AUTO}, {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    return engine


def engine_for_shards(engine: str, sharded: bool) -> str:
    """The engine, where ``auto`` is PyTorch's for shards: what a run began with, it goes on with anywhere.

    Raises:
        UsageError: there is no such engine.
    """
    return TORCH if check_engine(engine) == AUTO and sharded else engine


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
