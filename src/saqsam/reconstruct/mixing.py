"""QDrop's mixing (Wei et al. 2022, section 4): each element is quantized or left alone by a coin.

The coin is an argument of the call that uses it, with a generator of its own. Published code keeps it as
a field of every quantizer and forgets to reset half of them, so that half of those activations stay
float in the "quantized" model; a finished model here has nothing that could be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.grids.pieces import mask_of, ones_where, select

_FACES = 256
"""A coin is one random byte, eight of them to each random number drawn."""


@dataclass(frozen=True)
class Mixing:
    """How coins fall.

    Attributes:
        quantized: probability that an element is quantized, in steps of 1/256; 1 quantizes everything.
        generator: on the device of the tensors to be mixed.
    """

    quantized: float
    generator: torch.Generator

    def mask(self, x: Tensor) -> Tensor | None:
        """Bool tensor of ``x``'s shape, True where the quantized value is taken; ``None`` for everywhere."""
        if self.quantized >= 1.0:
            return None
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        coins = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return mask_of(coins.float().neg_().add_(round(self.quantized * _FACES)).clamp_(0.0, 1.0))

    def between(self, quantized: Tensor, original: Tensor) -> Tensor:
        """Elements of ``quantized`` where the coin says so, of ``original`` elsewhere; equal shapes."""
        mask = self.mask(quantized)
        return quantized if mask is None else select(ones_where(mask, original), quantized, original)
