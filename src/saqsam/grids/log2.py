"""The logarithmic grid for attention maps (Adaptive Granularity Quantization, PTQ4SAM section 3.3).

With granularity ``tau`` in {1, 2, 4} the values are ``scale * 2**(-n / tau)`` for codes
``n = 0 … 2**bits - 2``, and zero for the last code. The published code keeps an extra zero beside
``2**bits`` levels, which needs one code more than ``bits`` can hold; here zero *is* a code, so the
grid has exactly ``2**bits`` values.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRANULARITIES = (1, 2, 4)
_SMALLEST = 1e-20


def log2_codes(x: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """Codes of non-negative ``x``, as a float tensor of its shape; ``2**bits - 1`` stands for zero.

    Args:
        x: attention probabilities, any shape.
        scale: scalar tensor, the largest value of the grid.
        tau: steps per halving: 1, 2 or 4.
        bits: 2 to 8.
    """
    codes = torch.clamp(x, min=_SMALLEST).div_(scale).log2_().mul_(-tau).round_()
    return codes.clamp_(0, 2**bits - 1)


def log2_values(codes: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """The real numbers that ``codes`` stand for, same shape."""
    return log2_levels(scale, tau, bits)[codes.long()]


def log2_levels(scale: Tensor, tau: int, bits: int) -> Tensor:
    """All ``2**bits`` values of the grid in code order: float32, shape ``(2**bits,)``, zero last."""
    steps = torch.arange(2**bits, device=scale.device, dtype=torch.float32)
    levels = scale * torch.exp2(-steps / tau)
    levels[-1] = 0.0
    return levels


def log2_round_trip(x: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """``x`` moved to the nearest value of the grid (nearest in the exponent), same shape and dtype."""
    return log2_values(log2_codes(x, scale, tau, bits), scale, tau, bits).to(x.dtype)
