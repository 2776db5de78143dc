"""Everything that is learned in one unit, as overrides of its quantizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from saqsam.errors import InvariantError
from saqsam.families.record import Model
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT, Site
from saqsam.modules.layers import QuantizedLayer
from saqsam.modules.quantizer import Override, Quantizer
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.grouped_scales import LearnedGroups
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.rounding import LearnedRounding
from saqsam.reconstruct.scales import LearnedScale


class Learner:
    """Rounding of the weights and scales of the activations of one unit.

    Args:
        model: attached model; the unit's weights in it are still float.
        quantizers: the unit's quantizers by site, all with ranges.
        settings: the recipe's section.
    """

    def __init__(self, model: Model, quantizers: Mapping[Site, Quantizer], settings: Reconstruct) -> None:
        self.settings = settings
        self.layers = {
            quantizer: layer_at(model, site) for site, quantizer in quantizers.items() if site.role == WEIGHT
        }
        self.begin = {
            layer: (layer.weight.data, None if layer.bias is None else layer.bias.data)
            for layer in self.layers.values()
        }
        quantized = settings.activations == "quantized"
        self.activations = [q for site, q in quantizers.items() if site.role != WEIGHT and quantized]
        self.roundings: dict[Quantizer, LearnedRounding] = {}
        self.scales: dict[Quantizer, LearnedScale] = {}
        self.biases: list[Tensor] = []
        if settings.rounding == "adaround":
            self.roundings = {
                quantizer: LearnedRounding(layer.weight.detach(), quantizer)
                for quantizer, layer in self.layers.items()
            }
        if settings.scales:
            self.scales = {
                quantizer: learned_grid(quantizer)
                for quantizer in self.activations
                if quantizer.grid.learnable
            }
        if settings.bias_rate:
            self.biases = [layer.bias for layer in self.layers.values() if layer.bias is not None]
            for bias in self.biases:
                bias.data = bias.data.clone()  # learning writes here, and ``restore`` needs the old one

    @property
    def learns(self) -> bool:
        """Whether the unit has anything to learn."""
        return any(self.groups().values())

    def groups(self) -> dict[str, list[Tensor]]:
        """The learned tensors by kind: ``weight`` (its rounding), ``scale``, ``bias``."""
        return {
            "weight": [rounding.alpha for rounding in self.roundings.values()],
            "scale": [scale.log_ratio for scale in self.scales.values()],
            "bias": list(self.biases),
        }

    @contextmanager
    def learning(self) -> Iterator[None]:
        """While active, gradients reach everything that is learned."""
        for bias in self.biases:
            bias.requires_grad_(True)
        try:
            yield
        finally:
            for bias in self.biases:
                bias.requires_grad_(False)

    def overrides(self, mixing: Mixing | None) -> dict[Quantizer, Override]:
        """What the unit's quantizers say while it learns; ``None`` mixes nothing in."""
        overrides: dict[Quantizer, Override] = {
            quantizer: partial(_soft, rounding) for quantizer, rounding in self.roundings.items()
        }
        for quantizer in self.activations:
            learned = self.scales.get(quantizer)
            if learned is not None:
                overrides[quantizer] = partial(_learned, learned, mixing)
            else:
                overrides[quantizer] = partial(_fixed, quantizer, mixing)
        return overrides

    def advance(self, share: float) -> None:
        """Called before each step with the share of steps done: groups of channels join on the way."""
        for learned in self.scales.values():
            learned.advance(share)

    def undecided(self, beta: float) -> Tensor:
        """The rounding term, a scalar; see ``LearnedRounding.undecided``."""
        terms = [rounding.undecided(beta) for rounding in self.roundings.values()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    @torch.no_grad()
    def finish(self) -> None:
        """Write the result into the model: weights on their grids, scales into their quantizers.

        Raises:
            InvariantError: a hardened weight is not its own round trip, or a scale is not positive.
        """
        for quantizer, learned in self.scales.items():
            quantizer.set(learned.final_grid())
        for quantizer, rounding in self.roundings.items():
            write_weight(self.layers[quantizer], quantizer, rounding.harden())

    @torch.no_grad()
    def restore(self) -> None:
        """Back to calibrated scales, and each weight to the grid value nearest to where it began."""
        for quantizer, learned in self.scales.items():
            quantizer.set(learned.begin)
        for quantizer, layer in self.layers.items():
            weight, bias = self.begin[layer]
            write_weight(layer, quantizer, quantizer(weight))
            if bias is not None and layer.bias is not None:
                layer.bias.data = bias


def precision(settings: Reconstruct, device: torch.device) -> AbstractContextManager[object]:
    """Of matrix products in learning steps; grids are float32 in any case, see ``_learned``."""
    return torch.autocast(device.type, torch.bfloat16) if settings.autocast else nullcontext()


def learned_grid(quantizer: Quantizer) -> LearnedScale:
    """What is learned of an activation's grid that can be learned."""
    if quantizer.channel_ranges is not None:
        return LearnedGroups(quantizer.grid, quantizer.channel_ranges)
    return LearnedScale(quantizer.grid)


def write_weight(layer: QuantizedLayer, quantizer: Quantizer, weight: Tensor) -> None:
    """Replace a layer's weight by one that is on the grid.

    Raises:
        InvariantError: the weight is not its own round trip through its integers.
    """
    again = quantizer.by_stage(weight)
    if not torch.equal(again, weight):
        difference = float((again - weight).abs().max())
        raise InvariantError(quantizer.site, f"a rounded weight is {difference:.3g} away from its grid")
    layer.weight.data = weight


def _soft(rounding: LearnedRounding, x: Tensor, value: Tensor | None) -> Tensor:
    del x, value
    return rounding.soft()


def _learned(learned: LearnedScale, mixing: Mixing | None, x: Tensor, value: Tensor | None) -> Tensor:
    """A grid that is learned, in float32 also where autocast gives something smaller."""
    del value
    return learned.round_trip(x.float(), mixing)


def _fixed(quantizer: Quantizer, mixing: Mixing | None, x: Tensor, value: Tensor | None) -> Tensor:
    """A grid that is not learned, but lets gradients through to what is."""
    del value
    x = x.float()
    mask = None if mixing is None else mixing.mask(x)
    return quantizer.grid.differentiable(x, mask)
