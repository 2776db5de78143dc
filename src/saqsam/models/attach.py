"""Puts quantizers into a model of ``transformers``; it stays one."""

from __future__ import annotations

from torch import nn

from saqsam.errors import InvariantError
from saqsam.families.record import Model
from saqsam.families.registry import family_of
from saqsam.models.plan import Plan
from saqsam.models.sites import (
    ATTENTION,
    INPUT,
    KEY,
    QUERY,
    VALUE,
    WEIGHT,
    Site,
    attention_rows,
    layer_paths,
    quantized_sites,
)
from saqsam.modules.attention import AttentionQuantizers
from saqsam.modules.layers import QuantConv2d, QuantizedLayer, QuantLinear
from saqsam.modules.quantizer import Quantizer


def attach(model: Model, plan: Plan, *, float_rel_pos_query: bool = False) -> None:
    """Replace every planned layer and attention of ``model`` by its quantized form, in place.

    All quantizers begin in the stage OBSERVE, without an observer: outputs do not change.

    Args:
        model: a float model of any family.
        plan: which site gets how many bits on which grid; sites missing from it stay float.
        float_rel_pos_query: see ``QuantVisionAttention``.
    """
    for path in layer_paths(model):
        _replace(model, path, _quantized_layer(model.get_submodule(path), plan, path))
    adapt = family_of(model).modules().adapt
    for row in attention_rows(model):
        quantizers = _attention_quantizers(plan, row.path)
        original = model.get_submodule(row.path)
        _replace(model, row.path, adapt(original, quantizers, row, float_rel_pos_query))
    model.eval().requires_grad_(False)


def quantizer_at(model: Model, site: Site) -> Quantizer | None:
    """The quantizer of one site, or ``None`` where the recipe left it float."""
    module = model.get_submodule(site.path)
    if isinstance(module, QuantizedLayer):
        found = module.weight_quantizer if site.role == WEIGHT else module.input_quantizer
    else:
        found = getattr(module.quantizers, site.role)
    return found


def all_quantizers(model: Model) -> dict[Site, Quantizer]:
    """Every quantizer of an attached model by its site, in the order of the site table."""
    found = {site: quantizer_at(model, site) for site in quantized_sites(model)}
    return {site: quantizer for site, quantizer in found.items() if quantizer is not None}


def _quantized_layer(layer: nn.Module, plan: Plan, path: str) -> QuantizedLayer:
    on_input = _quantizer(plan, path, INPUT)
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d(layer, on_input, _quantizer(plan, path, WEIGHT, layer.out_channels))
    if isinstance(layer, nn.Linear):
        return QuantLinear(layer, on_input, _quantizer(plan, path, WEIGHT, layer.out_features))
    raise InvariantError(path, f"is a {type(layer).__name__}, expected a linear layer or a convolution")


def _attention_quantizers(plan: Plan, path: str) -> AttentionQuantizers:
    return AttentionQuantizers(*(_quantizer(plan, path, role) for role in (QUERY, KEY, VALUE, ATTENTION)))


def _quantizer(plan: Plan, path: str, role: str, channels: int | None = None) -> Quantizer | None:
    choice = plan.get(f"{path}:{role}")
    return None if choice is None else Quantizer(choice.site.name, choice.bits, choice.kind, channels)


def _replace(model: Model, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
