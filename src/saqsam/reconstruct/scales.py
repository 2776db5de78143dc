"""A learned activation scale: what is learned is its logarithm, so a step is a share of the scale.

With absolute steps, as in published code, one learning rate of 2e-3 changes a scale of 0.01 by a fifth
at each step and one of 5 not at all. Zero points stay integers and are not learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.quantizer import Quantizer
from saqsam.reconstruct import straight_through
from saqsam.reconstruct.mixing import Mixing


class LearnedScale:
    """The scale of one affine activation grid while it is learned.

    Args:
        quantizer: with a range; its scale is where learning begins.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.begin, self.zero_point, self.bits = quantizer.scale, quantizer.zero_point, quantizer.bits
        self.log_ratio = torch.zeros_like(quantizer.scale).requires_grad_(True)

    def scale(self) -> Tensor:
        """The present scale, differentiable in ``log_ratio``."""
        return self.begin * torch.exp(self.log_ratio)

    def answer(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` on the grid of the present scale."""
        mask = None if mixing is None else mixing.mask(x)
        return straight_through.affine(x, self.scale(), self.zero_point, self.bits, mask)
