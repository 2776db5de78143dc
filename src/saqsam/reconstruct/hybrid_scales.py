"""Learned knee and step of a hybrid grid (HLUQ, AHCPTQ section 3.2); as in ``scales``, their logarithms."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.grids.hybrid import hybrid_codes, hybrid_levels, hybrid_values
from saqsam.quantizer import Quantizer
from saqsam.reconstruct.mixing import Mixing


class LearnedHybrid:
    """Knee and step of one hybrid grid while they are learned; code of zero and shares stay.

    Args:
        quantizer: with a range; its knee and step are where learning begins.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.begin, self.zero_point, self.bits = quantizer.scale, quantizer.zero_point, quantizer.bits
        self.log_levels = quantizer.log_levels
        self.log_ratio = torch.zeros_like(quantizer.scale).requires_grad_(True)

    def scale(self) -> Tensor:
        """Present knee and step ``(2,)``, differentiable in ``log_ratio``."""
        return self.begin * torch.exp(self.log_ratio)

    def answer(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` on the present grid."""
        mask = None if mixing is None else mixing.mask(x)
        return hybrid(x, self.scale(), int(self.zero_point), self.log_levels, self.bits, mask)

    def advance(self, share: float) -> None:
        """Nothing changes on the way."""

    def settle(self, quantizer: Quantizer) -> None:
        """Write what was learned into the quantizer."""
        quantizer.set_hybrid(self.scale(), self.zero_point, self.log_levels)

    def restore(self, quantizer: Quantizer) -> None:
        """Back to the calibrated grid."""
        quantizer.set_hybrid(self.begin, self.zero_point, self.log_levels)


class _Hybrid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: int,
        log_levels: int,
        bits: int,
        mask: Tensor | None,
    ) -> Tensor:
        levels = hybrid_levels(scale[0], scale[1], zero_point, log_levels, bits)
        codes = hybrid_codes(x, levels)
        output = hybrid_values(codes, levels)
        inside = (x >= levels[0]) & (x <= levels[-1])
        error, even = output - x, codes > log_levels
        # Inside, only the part of the grid that rounds moves its values; outside, all that lies below does.
        to_knee = torch.where(inside, error * ~even, levels[0] + scale[0] * even) / scale[0]
        to_step = torch.where(inside, error / scale[1], float(2**bits - 1 - log_levels)) * even
        if mask is not None:
            output = torch.where(mask, output, x)
            to_knee *= mask
            to_step *= mask
            inside |= ~mask
        ctx.save_for_backward(to_knee, to_step, inside)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_knee, to_step, inside = ctx.saved_tensors
        to_x = gradient * inside if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[1]:
            flat = gradient.flatten()
            to_scale = torch.stack([torch.dot(flat, slope.flatten()) for slope in (to_knee, to_step)])
        return to_x, to_scale, None, None, None, None


def hybrid(
    x: Tensor, scale: Tensor, zero_point: int, log_levels: int, bits: int, mask: Tensor | None = None
) -> Tensor:
    """``x`` on the hybrid grid, differentiable in ``x`` and in ``scale``, knee and step ``(2,)``.

    Other args as in ``grids.hybrid.hybrid_levels``; ``mask`` as of ``straight_through.affine``.
    """
    found = _Hybrid.apply(x, scale, zero_point, log_levels, bits, mask)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)
