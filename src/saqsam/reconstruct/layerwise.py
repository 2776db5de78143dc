"""Single layers: what enters them, in the float and in the quantized model, token by token.

A linear layer treats tokens alike, so a random subset of them estimates its loss and its second-order
statistics without bias; a convolution becomes a linear layer on its patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.errors import InvariantError
from saqsam.families.record import State
from saqsam.models.sites import WEIGHT, Site
from saqsam.modules.layers import QuantConv2d, QuantizedLayer
from saqsam.modules.quantizer import Quantizer
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.units import Unit, UnitQuantizers


@contextmanager
def seeing_inputs(
    layers: Mapping[str, QuantizedLayer], keep: Callable[[QuantizedLayer, Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """While active, what enters each layer is shown to ``keep``, whose results are yielded by name."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def see(
            module: torch.nn.Module,
            inputs: tuple[Tensor, ...],
            name: str = name,
            layer: QuantizedLayer = layer,
        ) -> None:
            seen[name] = keep(layer, inputs[0])

        handles.append(layer.register_forward_pre_hook(see))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def token_rows(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """A layer's input as rows ``(tokens, in)`` that its flattened weight ``(out, in)`` multiplies."""
    if isinstance(layer, QuantConv2d):
        padding = cast(tuple[int, ...], layer.padding)  # never one of PyTorch's words in a SAM
        patches = F.unfold(x, layer.weight.shape[-2:], layer.dilation, padding, layer.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


def some_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most ``count`` rows, drawn with a generator on the CPU; the same draw for equally many rows."""
    if len(rows) <= count:
        return rows.clone()
    chosen = torch.randperm(len(rows), generator=generator)[:count].sort().values
    return rows[chosen.to(rows.device)]


@dataclass(frozen=True)
class LayerInputs:
    """What enters one layer, of each calibration image ``(tokens, in)``, the same tokens on both paths.

    Attributes:
        site: the layer's weight.
        layer: the layer.
        quantized: in the quantized model, before the layer's own input quantizer.
        original: in the float model.
    """

    site: Site
    layer: QuantizedLayer
    quantized: list[Tensor]
    original: list[Tensor]

    def as_problem(self, targets_from_quantized: bool) -> Problem:
        """Learning this layer alone: its float output is the target."""

        def run(state: State) -> State:
            return (linear_on_rows(self.layer, state[0]),)

        unit = Unit(self.site.path, self.site.part, (self.layer,), run, _no_view, (0,), (1.0,))
        references = self.quantized if targets_from_quantized else self.original
        weight, bias = self.layer.weight.flatten(1), self.layer.bias
        targets = [(F.linear(rows, weight, bias),) for rows in references]
        return Problem(
            unit,
            [(rows,) for rows in self.quantized],
            [(rows,) for rows in references],
            targets,
            None,
            (0.0, 1.0),
        )


def linear_on_rows(layer: QuantizedLayer, rows: Tensor) -> Tensor:
    """The layer on rows ``(tokens, in)`` of its input, quantized as its quantizers now answer."""
    return F.linear(layer.effective_input(rows), layer.effective_weight().flatten(1), layer.bias)


def _no_view(state: State, images: Sequence[int]) -> Tensor:
    raise NotImplementedError("a single layer has no prompt-aware view")


def layer_by_layer(
    unit: Unit,
    quantizers: UnitQuantizers,
    quantized: Sequence[State],
    original: Sequence[dict[str, Tensor]],
    tokens: int,
    seed: int,
) -> Iterator[LayerInputs]:
    """The layers of a unit in the order in which they run, each seen behind those already finished.

    Whoever iterates finishes a layer (puts its weight on the grid) before asking for the next one.

    Args:
        unit: its layers are visited.
        quantizers: the unit's quantizers.
        quantized: states that enter the unit in the quantized model, by image.
        original: what enters each layer in the float model, by image; see ``rows_of``. It is used up.
        tokens: at most so many of each image.
        seed: of the draw of tokens.
    """
    model_layers = {site: quantizer for site, quantizer in quantizers.items() if site.role == WEIGHT}
    layers = {site.name: layer_of(unit, quantizer) for site, quantizer in model_layers.items()}
    unfinished = dict(model_layers)
    for site in model_layers:
        name, layer = site.name, layers[site.name]
        with overridden(unquantized(unfinished.values())):
            rows = [
                rows_seen(unit, {name: layer}, state, tokens, seed, i)[1][name]
                for i, state in enumerate(quantized)
            ]
        del unfinished[site]
        yield LayerInputs(site, layer, rows, [image.pop(name) for image in original])


def rows_of(
    unit: Unit, quantizers: UnitQuantizers, state: State, tokens: int, seed: int, image: int
) -> tuple[State, dict[str, Tensor]]:
    """As ``rows_seen``, for all layers of a unit by the names of their sites."""
    layers = {
        site.name: layer_of(unit, quantizer) for site, quantizer in quantizers.items() if site.role == WEIGHT
    }
    return rows_seen(unit, layers, state, tokens, seed, image)


def rows_seen(
    unit: Unit, layers: Mapping[str, QuantizedLayer], state: State, tokens: int, seed: int, image: int
) -> tuple[State, dict[str, Tensor]]:
    """Run one image through a unit: what leaves it, and tokens ``(tokens, in)`` that entered each layer."""

    def keep(layer: QuantizedLayer, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed + image)
        return some_rows(token_rows(layer, x), tokens, generator)

    with seeing_inputs(layers, keep) as seen:
        return unit.run(state), seen


def layer_of(unit: Unit, quantizer: Quantizer) -> QuantizedLayer:
    """The layer inside the unit whose weight a quantizer belongs to."""
    for part in unit.modules:
        for module in part.modules():
            if isinstance(module, QuantizedLayer) and module.weight_quantizer is quantizer:
                return module
    raise InvariantError(quantizer.site, "its layer is not inside the unit")
