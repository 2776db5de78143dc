"""Learned rounding of one weight (AdaRound, Nagel et al. 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.modules.quantizer import Quantizer

ZETA, GAMMA = 1.1, -0.1
"""Stretch of the sigmoid, so that it reaches 0 and 1 at finite arguments."""


class LearnedRounding:
    """A weight whose every element may become the grid value below it or the one above.

    The grid is the quantizer's and stays as it is; what is learned is one number for each element. It
    begins where the soft weight equals the float weight.

    Args:
        weight: ``(out, ...)`` float.
        quantizer: the weight's quantizer, already with its scales.
        target: where learning begins, if not at ``weight`` itself; same shape.
    """

    def __init__(self, weight: Tensor, quantizer: Quantizer, target: Tensor | None = None) -> None:
        self.scale, zero_point = quantizer.affine.shaped(weight)
        self.lowest, self.highest = -zero_point, 2**quantizer.bits - 1 - zero_point
        steps = (weight if target is None else target) / self.scale
        self.floor = steps.floor()
        share = ((steps - self.floor) - GAMMA) / (ZETA - GAMMA)
        self.alpha = torch.logit(share).requires_grad_(True)

    def up(self) -> Tensor:
        """How far each element is rounded up, 0 to 1: the rectified sigmoid of ``alpha``."""
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)

    def soft(self) -> Tensor:
        """The weight in between grid values, differentiable in ``alpha``."""
        return self._clamped(self.floor + self.up()) * self.scale

    def undecided(self, beta: float) -> Tensor:
        """Sum of ``1 - |2 up - 1|**beta``: 0 when every element has decided."""
        return (1.0 - (2.0 * self.up() - 1.0).abs().pow(beta)).sum()

    @torch.no_grad()
    def harden(self) -> Tensor:
        """The weight on its grid, same shape: the only way out of soft rounding."""
        return self._clamped(self.floor + (self.alpha >= 0)) * self.scale

    def _clamped(self, steps: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(steps, self.lowest), self.highest)
