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

from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.grids.grid import Grid, Place, scale_problem, zero_point_problem
from saqsam.grids.packed import PackedActivation
from saqsam.grids.pieces import ones_where, select
from saqsam.grids.registry import register_grid

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


@register_grid
class Hybrid(Grid):
    """Powers of two up to a knee, even steps above.

    Args:
        bits: 2 to 8.
        knee: scalar, positive: the largest power-of-two level.
        step: scalar, positive: distance of the even levels above it.
        zero_point: scalar float holding an integer, the code of zero, ``0 .. log_levels``.
        log_levels: how many levels are powers of two, 1 to ``min(16, 2**bits - 2)``.
    """

    name = "hybrid"
    places = frozenset({Place.LINEAR_INPUT})
    place_reason = "is for inputs of linear layers"
    knee: Tensor
    step: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, knee: Tensor, step: Tensor, zero_point: Tensor, log_levels: int) -> None:
        super().__init__(bits)
        self.keep(knee=knee, step=step, zero_point=zero_point)
        self.log_levels = log_levels

    def levels(self) -> Tensor:
        """All values in code order: float32, shape ``(2**bits,)``."""
        return hybrid_levels(self.knee, self.step, int(self.zero_point), self.log_levels, self.bits)

    def codes(self, x: Tensor) -> Tensor:
        """As of ``Grid``; int64."""
        return hybrid_codes(x, self.levels())

    def values(self, codes: Tensor) -> Tensor:
        """As of ``Grid``; float32."""
        return hybrid_values(codes, self.levels())

    def round_trip(self, x: Tensor) -> Tensor:
        """As of ``Grid``."""
        return hybrid_round_trip(x, self.levels())

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """As of ``Grid``."""
        numbers = self.numbers() if numbers is None else numbers
        return straight_through(x, numbers, int(self.zero_point), self.log_levels, self.bits, mask)

    def numbers(self) -> Tensor:
        """As of ``Grid``: knee and step ``(2,)``."""
        return torch.stack([self.knee, self.step])

    def with_numbers(self, numbers: Tensor) -> Self:
        """As of ``Grid``."""
        return type(self)(self.bits, numbers[0], numbers[1], self.zero_point, self.log_levels)

    def check(self, channels: int | None = None) -> str:
        """As of ``Grid``."""
        most = min(MOST_LOG_LEVELS, 2**self.bits - 2)
        if problem := scale_problem(self.knee, ()) or scale_problem(self.step, ()):
            return problem
        if not 1 <= self.log_levels <= most:
            return f"{self.log_levels} logarithmic levels are outside 1..{most}"
        if problem := zero_point_problem(self.zero_point, (), self.log_levels):
            return problem
        return "" if separable(self.levels()) else "two values of its hybrid grid cannot be told apart"

    def bounds(self) -> tuple[float, float]:
        """As of ``Grid``."""
        levels = self.levels()
        return float(levels[0]), float(levels[-1])

    def to_packed(self) -> PackedActivation:
        """As of ``Grid``."""
        knee, step = self.numbers().tolist()
        return PackedActivation(self.name, self.bits, (knee, step), int(self.zero_point), self.log_levels)

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        """As of ``Grid``."""
        knee, step = (torch.tensor(number) for number in packed.scales)
        zero_point = torch.tensor(packed.zero_point, dtype=torch.float32)
        return cls(packed.bits, knee, step, zero_point, cast(int, packed.detail))

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        """As of ``Grid``."""
        zero_point, log_levels = packed.zero_point, packed.detail
        if isinstance(zero_point, tuple) or isinstance(log_levels, tuple) or len(packed.scales) != 2:
            return packed.unlawful
        most = min(MOST_LOG_LEVELS, (1 << packed.bits) - 2)
        if 1 <= log_levels <= most and 0 <= zero_point <= log_levels:
            return ""
        levels = f"{log_levels} logarithmic levels, zero point {zero_point}"
        return f"no {packed.bits}-bit hybrid grid has {levels}"

    @classmethod
    def count_numbers(cls, zero_point: int | tuple[int, ...]) -> int:
        """As of ``Grid``: knee and step."""
        return 2

    def facts(self) -> dict[str, Any]:
        """As of ``Grid``, and ``log_levels``."""
        return {**super().facts(), "log_levels": self.log_levels}


class _StraightThrough(torch.autograd.Function):
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
            chosen = ones_where(mask, x)
            output = select(chosen, output, x)
            to_knee *= chosen
            to_step *= chosen
            inside |= ~mask
        ctx.save_for_backward(to_knee, to_step, inside)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_knee, to_step, inside = ctx.saved_tensors
        to_x = gradient * ones_where(inside, gradient) if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[1]:
            flat = gradient.flatten()
            to_scale = torch.stack([torch.dot(flat, slope.flatten()) for slope in (to_knee, to_step)])
        return to_x, to_scale, None, None, None, None


def straight_through(
    x: Tensor, scale: Tensor, zero_point: int, log_levels: int, bits: int, mask: Tensor | None = None
) -> Tensor:
    """``x`` on the hybrid grid, differentiable in ``x`` and in ``scale``, knee and step ``(2,)``.

    Other args as in ``hybrid_levels``; ``mask`` as of ``affine.straight_through``.
    """
    found = _StraightThrough.apply(x, scale, zero_point, log_levels, bits, mask)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)
