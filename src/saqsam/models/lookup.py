"""Modules of a SAM by path, with their types: PyTorch knows only that something is there."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from saqsam.errors import InvariantError
from saqsam.families.record import Model
from saqsam.families.registry import sizes_of
from saqsam.models.sites import Site
from saqsam.modules.layers import QuantizedLayer

_M = TypeVar("_M", bound=nn.Module)


def module_at(model: nn.Module, path: str, kind: type[_M]) -> _M:
    """The module at a dotted path, which must be of one kind.

    Raises:
        InvariantError: something else is there; the message names the path and both kinds.
    """
    found = model.get_submodule(path)
    if not isinstance(found, kind):
        raise InvariantError(path, f"is a {type(found).__name__}, expected a {kind.__name__}")
    return found


def quantized(path: str, layer: nn.Module) -> QuantizedLayer:
    """``layer``, which must be one of an attached model.

    Raises:
        InvariantError: it is not; the message names ``path``.
    """
    if not isinstance(layer, QuantizedLayer):
        raise InvariantError(path, f"has a {type(layer).__name__}, expected a QuantizedLayer")
    return layer


def layer_at(model: Model, site: Site) -> QuantizedLayer:
    """The layer that owns an ``input`` or ``weight`` site of an attached model."""
    return module_at(model, site.path, QuantizedLayer)


def image_side(model: Model) -> int:
    """Side of the model's square input in pixels: 1024 for the published models."""
    return sizes_of(model).preprocessing.side
