"""The hybrid grid for what follows GELU or ReLU (Hybrid Log-Uniform Quantization, AHCPTQ section 3.2).

Most of these values crowd near their minimum, a few reach far up. The levels, in code order, are 0, then
``log_levels`` powers of two up to the knee, then even steps::

    0, knee * 2**-(log_levels - 1), …, knee / 2, knee, knee + step, knee + 2 * step, …

and what a code stands for is its level minus the level of the zero point, so zero is on the grid exactly.
There are ``2**bits`` values in all. Rounding goes to the nearest value. (Published code rounds the
exponent below the knee, and its test for "below the lowest level" also catches large values above the
knee, which then collapse onto the knee.)
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_LOG_LEVELS = 16
"""More octaves than this would be lost in float32 once the level of the zero point is subtracted."""


def log_levels_for(share: float, bits: int) -> int:
    """How many levels a share of all codes is: at least 1, and two codes are left for zero and the top."""
    return max(1, min(MOST_LOG_LEVELS, round(share * (1 << bits)), (1 << bits) - 2))


def hybrid_levels(knee: Tensor, step: Tensor, zero_point: int, log_levels: int, bits: int) -> Tensor:
    """All values of the grid in code order, ascending: float32, shape ``(2**bits,)``.

    Args:
        knee: scalar tensor, positive: the largest power-of-two level.
        step: scalar tensor, positive: distance of the even levels above it.
        zero_point: the code that stands for zero, ``0 … log_levels``.
        log_levels: 1 to ``min(16, 2**bits - 2)``.
        bits: 2 to 8.
    """
    knee, step = knee.float(), step.float()
    octaves = torch.arange(log_levels - 1, -1, -1, device=knee.device, dtype=torch.float32)
    evens = torch.arange(1, 2**bits - log_levels, device=knee.device, dtype=torch.float32)
    levels = torch.cat([knee.new_zeros(1), knee * torch.exp2(-octaves), knee + step * evens])
    return levels - levels[zero_point]


def hybrid_codes(x: Tensor, levels: Tensor) -> Tensor:
    """Code of the value nearest to each element, int64 of ``x``'s shape; a tie goes to the lower one."""
    return torch.bucketize(x.float(), (levels[1:] + levels[:-1]) / 2)


def hybrid_values(codes: Tensor, levels: Tensor) -> Tensor:
    """The real numbers that ``codes`` stand for, same shape."""
    return levels.index_select(0, codes.flatten()).view(codes.shape)


def hybrid_round_trip(x: Tensor, levels: Tensor) -> Tensor:
    """``x`` moved to the nearest of ``levels``, same shape and dtype; NaN stays NaN."""
    moved = hybrid_values(hybrid_codes(x, levels), levels).to(x.dtype)
    return torch.where(x.isnan(), x, moved)


def separable(levels: Tensor) -> bool:
    """Whether every value is its own nearest one: far enough from its neighbours for float32."""
    return torch.equal(hybrid_codes(levels, levels), torch.arange(len(levels), device=levels.device))
