"""Files in the layout of those that a family's authors published: told apart, renamed, written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saqsam.checkpoints.reading import StoredTensor
from saqsam.errors import CheckpointError
from saqsam.families.layout import Layout
from saqsam.families.record import Model
from saqsam.families.registry import FAMILIES, family_of, family_of_config, tell_licence
from saqsam.files import atomic_write
from saqsam.modules.quantizer import Quantizer

CONFIG_KEY = "saqsam_config"


def official_layout(names: Mapping[str, Any]) -> Layout | None:
    """The official layout that tensor names have; ``None`` where they are those of ``transformers``."""
    return next((family.layout for family in FAMILIES if family.layout.holds(names)), None)


def join_stored(parts: list[StoredTensor]) -> StoredTensor:
    """Tensors in a file as one, one after the other in their first dimension.

    Raises:
        ValueError: they do not fit together.
    """
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1 or not all(part.shape for part in parts):
        raise ValueError(f"holds parts of one tensor with shapes {[part.shape for part in parts]}")
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return StoredTensor(shape, parts[0].dtype, lambda: torch.cat([part.read() for part in parts]))


def divide_stored(whole: StoredTensor, count: int) -> list[StoredTensor]:
    """The inverse of joining ``count`` tensors of one shape.

    Raises:
        ValueError: its first dimension is no multiple of ``count``.
    """
    if not whole.shape or whole.shape[0] % count:
        raise ValueError(f"holds {count} tensors as one with shape {whole.shape}")
    rows = whole.shape[0] // count
    parts = [slice(rows * index, rows * (index + 1)) for index in range(count)]
    return [
        StoredTensor((rows, *whole.shape[1:]), whole.dtype, partial(_part, whole, part)) for part in parts
    ]


def _part(whole: StoredTensor, rows: slice) -> Tensor:
    return whole.read()[rows]


def behead_stored(table: StoredTensor) -> StoredTensor:
    """A table without its first row, ``(1, 1 + N, C) -> (1, N, C)``.

    Raises:
        ValueError: there is no such row.
    """
    if len(table.shape) < 2 or table.shape[1] < 1:
        raise ValueError(f"holds a table of positions with shape {table.shape}")
    shape = (table.shape[0], table.shape[1] - 1, *table.shape[2:])
    return StoredTensor(shape, table.dtype, lambda: table.read()[:, 1:])


def with_head(table: Tensor) -> Tensor:
    """The inverse, with zeros, which nothing reads."""
    return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def split_rows(tensor: Tensor) -> list[Tensor]:
    """The inverse of joining: one tensor for each entry of the first dimension."""
    return list(tensor.split(1))


def write_official(model: Model, path: str | Path) -> None:
    """Write a float model in the official layout of its family, atomically.

    The file is a dictionary of float32 tensors, as the official ones are. The sizes that shapes alone do not
    tell travel in its ``_metadata``, which every ``load_state_dict`` passes over.

    Raises:
        CheckpointError: the model holds tensors that the official layout has no place for, as a quantized
            one does.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise CheckpointError(
            path,
            "the official layout has no place for quantized activations",
            "Save a quantized model as packed",
        )
    layout = family_of(model).layout
    try:
        named = layout.to_official(model.state_dict(), split_rows, torch.cat, with_head)
    except KeyError as error:
        raise CheckpointError(
            path, f"the official layout has no place for {error}", "Only float models are written to it"
        ) from error
    state = OrderedDict((name, _alone(value.detach().float().cpu())) for name, value in named.items())
    state._metadata = {CONFIG_KEY: plain_config(model.config)}  # type: ignore[attr-defined]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({layout.wrapper: state} if layout.wrapper else state, file)
        except RuntimeError as error:  # closing the unfinished archive fails too, and hides why
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
    tell_licence(model, path)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor with a storage of just its size: torch.save writes the whole storage of a view."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def plain_config(config: Any) -> dict[str, Any]:
    """The fields of a configuration that matter in its family, as plain numbers by section."""
    family = family_of_config(config)
    found: dict[str, Any] = {"model_type": family.model_types[0]}
    for section, checks in family.config.fields.items():
        values = reduce(getattr, section, config).to_dict()
        inner = reduce(lambda table, name: table[name], section[:-1], found)
        told = (key for key in checks if key in values and key not in family.config.idle)
        inner[section[-1]] = {key: _plain(values[key]) for key in told}
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
