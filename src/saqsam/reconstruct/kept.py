"""What a finished part leaves in the model, as tensors: out of the model, and back into it bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import SamModel

from saqsam.errors import InvariantError
from saqsam.grids.affine import affine_codes, affine_values
from saqsam.models.attach import all_quantizers
from saqsam.models.layers import QuantizedLayer
from saqsam.models.sites import WEIGHT, Site
from saqsam.quantizer import GROUPED, HYBRID, LOG2, Quantizer, Stage
from saqsam.reconstruct.learner import layer_at, write_weight

Tensors = dict[str, Tensor]
_PARAMETER = "/parameter"


def calibrated(model: SamModel, *, folded: bool) -> tuple[Tensors, dict[str, Any]]:
    """Every quantizer's range, and all parameters where folds rewrote some.

    Args:
        model: attached and calibrated.
        folded: whether any fold was made.

    Returns:
        Tensors, and by site what logarithmic and hybrid grids have besides: granularity, logarithmic levels.
    """
    tensors: Tensors = {}
    granularities = {}
    for site, quantizer in all_quantizers(model).items():
        if quantizer.stage is Stage.OBSERVE:
            continue  # it saw nothing; the audit will name it
        tensors |= _range(site, quantizer)
        if quantizer.grid == LOG2:
            granularities[site.name] = quantizer.tau
        if quantizer.grid == HYBRID:
            granularities[site.name] = quantizer.log_levels
        if quantizer.channel_ranges is not None:
            tensors[f"{site.name}/channel_ranges"] = quantizer.channel_ranges
    if folded:
        tensors |= {f"{name}{_PARAMETER}": parameter.data for name, parameter in model.named_parameters()}
    return tensors, granularities


@torch.no_grad()
def restore_calibrated(model: SamModel, tensors: Tensors, granularities: Mapping[str, int]) -> None:
    """The inverse of ``calibrated`` on an attached model that observes."""
    for site, quantizer in all_quantizers(model).items():
        scale = tensors.get(f"{site.name}/scale")
        if scale is None:
            continue
        if quantizer.grid == LOG2:
            quantizer.set_log2(scale, granularities[site.name])
        else:
            _set(quantizer, site, tensors, granularities.get(site.name, 0))
        quantizer.channel_ranges = tensors.get(f"{site.name}/channel_ranges")
    for name, parameter in model.named_parameters():
        if f"{name}{_PARAMETER}" in tensors:
            parameter.data.copy_(tensors[f"{name}{_PARAMETER}"])


def learned(model: SamModel, own: Mapping[Site, Quantizer]) -> Tensors:
    """Integers and grids of the weights of some sites, grids of the activations, biases.

    Args:
        model: the weights of the sites lie on their grids.
        own: sites and quantizers of the part.
    """
    tensors: Tensors = {}
    for site, quantizer in own.items():
        tensors |= _range(site, quantizer)
        if site.role == WEIGHT:
            layer = layer_at(model, site)
            scale, zero_point = quantizer.parameters_for(layer.weight)
            codes = affine_codes(layer.weight.data, scale, zero_point, quantizer.bits)
            tensors[f"{site.name}/codes"] = codes.to(torch.uint8)
            tensors |= _bias(site, layer)
    return tensors


@torch.no_grad()
def restore_learned(model: SamModel, own: Mapping[Site, Quantizer], tensors: Tensors) -> None:
    """The inverse of ``learned``.

    Raises:
        InvariantError: the weights' grids are not the ones the integers were found on.
    """
    for site, quantizer in own.items():
        scale = tensors[f"{site.name}/scale"]
        if site.role != WEIGHT:
            if quantizer.grid != LOG2:
                _set(quantizer, site, tensors, quantizer.log_levels)
            continue
        if not torch.equal(scale.to(quantizer.scale), quantizer.scale):
            raise InvariantError(site.name, "its grid is not the one that the run's integers were found on")
        layer = layer_at(model, site)
        shaped = quantizer.parameters_for(layer.weight)
        codes = tensors[f"{site.name}/codes"].to(layer.weight)
        write_weight(layer, quantizer, affine_values(codes, *shaped))
        _restore_bias(site, layer, tensors)


def _range(site: Site, quantizer: Quantizer) -> Tensors:
    tensors = {f"{site.name}/scale": quantizer.scale, f"{site.name}/zero_point": quantizer.zero_point}
    if quantizer.grid == GROUPED:
        tensors[f"{site.name}/groups"] = quantizer.groups.to(torch.int32)
    return tensors


def _set(quantizer: Quantizer, site: Site, tensors: Tensors, log_levels: int) -> None:
    """The inverse of ``_range`` for all but logarithmic grids."""
    scale, zero_point = tensors[f"{site.name}/scale"], tensors[f"{site.name}/zero_point"]
    if quantizer.grid == GROUPED:
        quantizer.set_grouped(scale, zero_point, tensors[f"{site.name}/groups"].long())
    elif quantizer.grid == HYBRID:
        quantizer.set_hybrid(scale, zero_point, log_levels)
    else:
        quantizer.set_affine(scale, zero_point)


def _bias(site: Site, layer: QuantizedLayer) -> Tensors:
    return {} if layer.bias is None else {f"{site.name}/bias": layer.bias.data}


def _restore_bias(site: Site, layer: QuantizedLayer, tensors: Tensors) -> None:
    if layer.bias is not None:
        layer.bias.data = tensors[f"{site.name}/bias"].to(layer.bias)
