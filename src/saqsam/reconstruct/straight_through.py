"""The grids with gradients: forward exactly as in the finished model, backward as if rounding were not there.

Straight-through estimator (Bengio et al. 2013) for the rounding, true gradient for the clamping, as in
LSQ (Esser et al. 2020, section 2.1). One step saves one slope and one mask instead of every intermediate.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.grids.affine import step_limits
from saqsam.grids.log2 import log2_values


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None
    ) -> Tensor:
        steps = x / scale
        codes = steps.round()
        clamped = codes.clamp(*step_limits(zero_point, bits))
        inside = codes == clamped
        output = clamped * scale
        slope = clamped - steps * inside
        if mask is not None:
            output = torch.where(mask, output, x)
            slope *= mask
            inside |= ~mask
        ctx.save_for_backward(slope, inside)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, inside = ctx.saved_tensors
        to_x = gradient * inside if ctx.needs_input_grad[0] else None
        to_scale = torch.dot(gradient.flatten(), slope.flatten()) if ctx.needs_input_grad[1] else None
        return to_x, to_scale, None, None, None


class _Log2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, tau: int, bits: int, mask: Tensor | None) -> Tensor:
        codes = x.div(scale).log2_().mul_(-tau).round_()
        active = (codes >= 0) & (codes < 2**bits - 1)
        output = log2_values(codes.clamp_(0, 2**bits - 1), scale, tau, bits)
        ratio = torch.where(active, output / x, 0.0)
        if mask is not None:
            output = torch.where(mask, output, x)
            ratio.masked_fill_(~mask, 1.0)
        ctx.save_for_backward(ratio)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (ratio,) = ctx.saved_tensors
        return gradient * ratio, None, None, None, None


def affine(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None = None) -> Tensor:
    """``x`` on the affine grid, differentiable in ``x`` and ``scale``.

    Args:
        x: any shape.
        scale: scalar tensor, positive.
        zero_point: scalar tensor holding an integer.
        bits: 2 to 8.
        mask: bool of ``x``'s shape; where False, ``x`` itself is returned (see ``mixing``).
    """
    return cast(Tensor, _Affine.apply(x, scale, zero_point, bits, mask))  # type: ignore[no-untyped-call]


def log2(x: Tensor, scale: Tensor, tau: int, bits: int, mask: Tensor | None = None) -> Tensor:
    """``x`` on the logarithmic grid, differentiable in ``x``.

    The gradient with respect to ``scale`` vanishes wherever the grid is active (the direct term and the
    one through the exponent cancel), so this scale is not learned. Args as in ``affine`` and ``grids.log2``.
    """
    return cast(Tensor, _Log2.apply(x, scale, tau, bits, mask))  # type: ignore[no-untyped-call]
