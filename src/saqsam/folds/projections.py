"""Where an attention keeps its query, key, value and output projections, and what passes through them.

Queries, keys and values come from three layers or from one fused one. A fold only needs rows of weights and
biases, so both are seen through the same few slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saqsam.errors import NumericalError, UsageError
from saqsam.models import sites
from saqsam.models.lookup import quantized
from saqsam.modules.layers import QuantizedLayer

QUERY, KEY, VALUE = 0, 1, 2
_ROLES = (sites.QUERY, sites.KEY, sites.VALUE)


@dataclass
class ChannelStatistics:
    """Smallest, largest and mean value of each channel, over every token of every image seen.

    Attributes:
        low: ``(channels,)``.
        high: ``(channels,)``.
        total: ``(channels,)`` float64 sum.
        count: tokens seen.
    """

    low: Tensor
    high: Tensor
    total: Tensor
    count: int

    @property
    def span(self) -> Tensor:
        """``high - low``, ``(channels,)``."""
        return self.high - self.low

    @property
    def mean(self) -> Tensor:
        """Mean over tokens, ``(channels,)`` float32."""
        return (self.total / self.count).float()


@dataclass
class Projections:
    """One attention's projections, and the statistics of their outputs.

    Attributes:
        attention: the attention of an attached model, as its family's adapter made it.
        path: where it is in the model; used in messages.
        statistics: for QUERY, KEY and VALUE once something was collected.
    """

    attention: Any
    path: str = "attention"
    statistics: dict[int, ChannelStatistics] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[QuantizedLayer, ...]:
        """The layers whose outputs are queries, keys and values: three of them, or the fused one."""
        return tuple(quantized(self.path, layer) for layer in self.attention.projection_layers)

    def rows(self, kind: int) -> tuple[Tensor, Tensor]:
        """Views of weight ``(channels, in)`` and bias ``(channels,)`` that make QUERY, KEY or VALUE."""
        if len(self.layers) == 3:
            layer, rows = self.layers[kind], slice(None)
        else:
            layer = self.layers[0]
            width = layer.weight.shape[0] // 3
            rows = slice(kind * width, (kind + 1) * width)
        if layer.bias is None:
            raise UsageError(
                "folds need projections with a bias; this model has none, so switch its folds off"
            )
        return layer.weight.data[rows], layer.bias.data[rows]

    def output_weight(self) -> Tensor:
        """View of the output projection's weight ``(out, channels)``: column c reads value channel c."""
        return quantized(self.path, self.attention.output_layer).weight.data

    def observe(self, kind: int, output: Tensor) -> None:
        """Add one projection output ``(..., channels)`` to the statistics.

        Raises:
            NumericalError: it holds NaN or infinity.
        """
        flat = output.detach().reshape(-1, output.shape[-1])
        new = ChannelStatistics(flat.amin(0), flat.amax(0), flat.double().sum(0), len(flat))
        if not bool(torch.isfinite(new.total).all()):
            site = f"{self.path}:{_ROLES[kind]}"
            raise NumericalError(site, "NaN or infinity in its values; check the weights and the images")
        old = self.statistics.get(kind)
        if old is not None:
            new.low, new.high = torch.minimum(old.low, new.low), torch.maximum(old.high, new.high)
            new.total, new.count = old.total + new.total, old.count + new.count
        self.statistics[kind] = new


@contextmanager
def collecting(projections: dict[str, Projections]) -> Iterator[None]:
    """While active, every forward pass adds to the statistics; hooks never outlive the block."""
    handles = []
    for found in projections.values():
        for index, layer in enumerate(found.layers):
            handles.append(layer.register_forward_hook(_hook(found, index)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(found: Projections, index: int) -> Callable[[nn.Module, Any, Tensor], None]:
    def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if len(found.layers) == 3:
            found.observe(index, output)
        else:
            for kind, part in enumerate(output.chunk(3, dim=-1)):
                found.observe(kind, part)

    return see
