"""What a finished part leaves in the model, as tensors: out of the model, and back into it bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saqsam.errors import InvariantError
from saqsam.families.record import Model
from saqsam.grids.packed import PackedActivation
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT, Site
from saqsam.modules.layers import QuantizedLayer
from saqsam.modules.quantizer import Quantizer, Stage
from saqsam.reconstruct.learner import write_weight
from saqsam.reconstruct.units import UnitQuantizers

Tensors = dict[str, Tensor]
_PARAMETER = "/parameter"


def calibrated(model: Model, *, folded: bool) -> tuple[Tensors, dict[str, Any]]:
    """Every quantizer's range, and all parameters where folds rewrote some.

    Args:
        model: attached and calibrated.
        folded: whether any fold was made.

    Returns:
        Tensors, and by site the whole number that a grid has besides, such as its granularity, if it has one.
    """
    tensors: Tensors = {}
    granularities = {}
    for site, quantizer in all_quantizers(model).items():
        if quantizer.stage is Stage.OBSERVE:
            continue  # it saw nothing; the audit will name it
        tensors |= _range(site, quantizer)
        detail = quantizer.grid.to_packed().detail
        if detail and not isinstance(detail, tuple):
            granularities[site.name] = detail
        if quantizer.channel_ranges is not None:
            tensors[f"{site.name}/channel_ranges"] = quantizer.channel_ranges
    if folded:
        tensors |= {f"{name}{_PARAMETER}": parameter.data for name, parameter in model.named_parameters()}
    return tensors, granularities


@torch.no_grad()
def restore_calibrated(model: Model, tensors: Tensors, granularities: Mapping[str, int]) -> None:
    """The inverse of ``calibrated`` on an attached model that observes."""
    for site, quantizer in all_quantizers(model).items():
        if f"{site.name}/scale" not in tensors:
            continue
        _set(quantizer, site, tensors, granularities.get(site.name, 0))
        quantizer.channel_ranges = tensors.get(f"{site.name}/channel_ranges")
    for name, parameter in model.named_parameters():
        if f"{name}{_PARAMETER}" in tensors:
            parameter.data.copy_(tensors[f"{name}{_PARAMETER}"])


def learned(model: Model, quantizers: UnitQuantizers) -> Tensors:
    """Integers and grids of the weights of some sites, grids of the activations, biases.

    Args:
        model: the weights of the sites lie on their grids.
        quantizers: sites and quantizers of the part.
    """
    tensors: Tensors = {}
    for site, quantizer in quantizers.items():
        tensors |= _range(site, quantizer)
        if site.role == WEIGHT:
            layer = layer_at(model, site)
            tensors[f"{site.name}/codes"] = quantizer.grid.codes(layer.weight.data).to(torch.uint8)
            tensors |= _bias(site, layer)
    return tensors


@torch.no_grad()
def restore_learned(model: Model, quantizers: UnitQuantizers, tensors: Tensors) -> None:
    """The inverse of ``learned``.

    Raises:
        InvariantError: the weights' grids are not the ones the integers were found on.
    """
    for site, quantizer in quantizers.items():
        if site.role != WEIGHT:
            detail = quantizer.grid.to_packed().detail
            _set(quantizer, site, tensors, 0 if isinstance(detail, tuple) else detail)
            continue
        scale = quantizer.grid.numbers()
        if not torch.equal(tensors[f"{site.name}/scale"].to(scale), scale):
            raise InvariantError(site.name, "its grid is not the one that the run's integers were found on")
        layer = layer_at(model, site)
        codes = tensors[f"{site.name}/codes"].to(layer.weight)
        write_weight(layer, quantizer, quantizer.grid.values(codes))
        _restore_bias(site, layer, tensors)


def _range(site: Site, quantizer: Quantizer) -> Tensors:
    """A grid's numbers but for the whole number that it may have besides."""
    packed = quantizer.grid.to_packed()
    tensors = {
        f"{site.name}/scale": torch.tensor(packed.scale, dtype=torch.float32),
        f"{site.name}/zero_point": torch.tensor(packed.zero_point, dtype=torch.float32),
    }
    if isinstance(packed.detail, tuple):
        tensors[f"{site.name}/groups"] = torch.tensor(packed.detail, dtype=torch.int32)
    return tensors


def _set(quantizer: Quantizer, site: Site, tensors: Tensors, detail: int) -> None:
    """The inverse of ``_range``."""
    scale, zero_point = tensors[f"{site.name}/scale"], tensors[f"{site.name}/zero_point"]
    groups = tensors.get(f"{site.name}/groups")
    packed = PackedActivation(
        quantizer.kind.name,
        quantizer.bits,
        _plain(scale),
        _plain(zero_point.int()),
        detail if groups is None else _plain(groups),
    )
    quantizer.set(quantizer.kind.from_packed(packed))


def _plain(tensor: Tensor) -> Any:
    """A number, or a tuple of numbers."""
    return tuple(tensor.tolist()) if tensor.ndim else tensor.item()


def _bias(site: Site, layer: QuantizedLayer) -> Tensors:
    return {} if layer.bias is None else {f"{site.name}/bias": layer.bias.data}


def _restore_bias(site: Site, layer: QuantizedLayer, tensors: Tensors) -> None:
    if layer.bias is not None:
        layer.bias.data = tensors[f"{site.name}/bias"].to(layer.bias)
