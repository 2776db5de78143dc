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


def log2_codes(x: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """Codes of non-negative ``x``, as a float tensor of its shape; ``2**bits - 1`` stands for zero.

    Args:
        x: attention probabilities, any shape; NaN stays NaN.
        scale: scalar tensor, the largest value of the grid.
        tau: steps per halving: 1, 2 or 4.
        bits: 2 to 8.
    """
    # log2 of zero is -inf, which clamping turns into the code of zero: no floor is needed, and a floor
    # would land on a small positive value wherever the grid reaches below it.
    return x.div(scale).log2_().mul_(-tau).round_().clamp_(0, 2**bits - 1)


def log2_values(codes: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """The real numbers that ``codes`` stand for, same shape; NaN stays NaN."""
    levels = log2_levels(scale, tau, bits)
    table = torch.cat([levels, levels.new_full((1,), torch.nan)])
    index = codes.nan_to_num(nan=2**bits).flatten().int()  # int32 indexes twice as fast as int64
    return table.index_select(0, index).view(codes.shape)


def log2_levels(scale: Tensor, tau: int, bits: int) -> Tensor:
    """All ``2**bits`` values of the grid in code order: float32, shape ``(2**bits,)``, zero last."""
    steps = torch.arange(2**bits, device=scale.device, dtype=torch.float32)
    levels = scale * torch.exp2(-steps / tau)
    levels[-1] = 0.0
    return levels


def log2_round_trip(x: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """``x`` moved to the nearest value of the grid (nearest in the exponent), same shape and dtype."""
    return log2_values(log2_codes(x, scale, tau, bits), scale, tau, bits).to(x.dtype)
