"""A learned activation scale: what is learned is its logarithm, so a step is a share of the scale.

With absolute steps, as in published code, one learning rate of 2e-3 changes a scale of 0.01 by a fifth
at each step and one of 5 not at all. Zero points stay integers and are not learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.grids.grid import Grid
from saqsam.reconstruct.mixing import Mixing


class LearnedScale:
    """The numbers of one activation grid while they are learned.

    Args:
        begin: the calibrated grid, with whose numbers learning begins.

    Attributes:
        log_ratio: the learned tensor: logarithms of present numbers over those at the beginning.
    """

    def __init__(self, begin: Grid) -> None:
        self.begin = begin
        self.log_ratio = torch.zeros_like(begin.numbers()).requires_grad_(True)

    def numbers(self) -> Tensor:
        """The present numbers, differentiable in ``log_ratio``."""
        return self.begin.numbers() * torch.exp(self.log_ratio)

    def round_trip(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` on the present grid, differentiable in ``x`` and ``log_ratio``."""
        mask = None if mixing is None else mixing.mask(x)
        return self.begin.differentiable(x, mask, self.numbers())

    def advance(self, share: float) -> None:
        """Called before each step with the share of steps done; nothing changes on the way."""

    def final_grid(self) -> Grid:
        """The grid that was learned."""
        return self.begin.with_numbers(self.numbers())
