"""A learned activation scale: what is learned is its logarithm, so a step is a share of the scale.

With absolute steps, as in published code, one learning rate of 2e-3 changes a scale of 0.01 by a fifth
at each step and one of 5 not at all. Zero points stay integers and are not learned.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from saqsam.quantizer import Quantizer
from saqsam.reconstruct import straight_through
from saqsam.reconstruct.mixing import Mixing


class LearnedGrid(Protocol):
    """What can be learned of an activation's grid.

    Attributes:
        log_ratio: the learned tensor: logarithms of present scales over those at the beginning.
    """

    log_ratio: Tensor

    def answer(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` on the present grid, differentiable in ``x`` and ``log_ratio``."""

    def advance(self, share: float) -> None:
        """Called before each step with the share of steps done."""

    def settle(self, quantizer: Quantizer) -> None:
        """Write what was learned into the quantizer."""

    def restore(self, quantizer: Quantizer) -> None:
        """Write the calibrated grid into the quantizer again."""


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

    def advance(self, share: float) -> None:
        """Nothing changes on the way."""

    def settle(self, quantizer: Quantizer) -> None:
        """Write what was learned into the quantizer."""
        quantizer.set_affine(self.scale(), self.zero_point)

    def restore(self, quantizer: Quantizer) -> None:
        """Back to the calibrated scale."""
        quantizer.set_affine(self.begin, self.zero_point)
