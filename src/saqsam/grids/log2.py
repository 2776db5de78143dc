"""The logarithmic grid for attention maps (Adaptive Granularity Quantization, PTQ4SAM section 3.3).

With granularity ``tau`` in {1, 2, 4} the values are ``scale * 2**(-n / tau)`` for codes
``n = 0 … 2**bits - 2``, and zero for the last code. The published code keeps an extra zero beside
``2**bits`` levels, which needs one code more than ``bits`` can hold; here zero *is* a code, so the
grid has exactly ``2**bits`` values.
"""

from __future__ import annotations

import math
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.grids.grid import Grid, Place, Writer, scale_problem
from saqsam.grids.packed import PackedActivation
from saqsam.grids.pieces import ones_where, select
from saqsam.grids.registry import register_grid

GRANULARITIES = (1, 2, 4)
MAX_TAU = 255
"""Of what a file may say."""
_BEYOND = 1e30
"""More than the code of any number but zero."""
_INT32 = 6  # ONNX's number of the type


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
    codes = log2_codes(x, scale, tau, bits)
    look_up = x.device.type != "cpu" or torch.compiler.is_compiling() or codes.dtype != torch.float32
    return (log2_values if look_up else _values_of_whole)(codes, scale, tau, bits).to(x.dtype)


def _values_of_whole(codes: Tensor, scale: Tensor, tau: int, bits: int) -> Tensor:
    """As ``log2_values``, bit for bit, of codes as whole floats: on a CPU twice as fast as a table."""
    values = codes.div(-tau).exp2_().mul_(scale)
    return values.mul_(codes.sub(2**bits - 1).neg_().clamp_(max=1.0))  # the last code is that of zero


@register_grid
class Log2(Grid):
    """``scale * 2**(-n / tau)`` for codes from 0, and zero for the last code: for attention maps.

    Args:
        bits: 2 to 8.
        scale: scalar, the largest value of the grid.
        tau: levels for each halving: 1, 2 or 4.
    """

    name = "log2"
    places = frozenset({Place.MAP})
    place_reason = "holds only [0, 1] maps"
    learnable = False
    rows_suffice = True
    scale: Tensor

    def __init__(self, bits: int, scale: Tensor, tau: int) -> None:
        super().__init__(bits)
        self.keep(scale=scale)
        self.tau = tau

    def codes(self, x: Tensor) -> Tensor:
        """As of ``Grid``; float."""
        return log2_codes(x, self.scale, self.tau, self.bits)

    def values(self, codes: Tensor) -> Tensor:
        """As of ``Grid``."""
        return log2_values(codes, self.scale, self.tau, self.bits)

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """As of ``Grid``, but no gradient reaches ``numbers``.

        It vanishes wherever the grid is active (the direct term and the one through the exponent cancel), so
        this scale is not learned.
        """
        scale = self.scale if numbers is None else numbers
        return straight_through(x, scale, self.tau, self.bits, mask)

    def numbers(self) -> Tensor:
        """As of ``Grid``: the scale."""
        return self.scale

    def with_numbers(self, numbers: Tensor) -> Self:
        """As of ``Grid``."""
        return type(self)(self.bits, numbers, self.tau)

    def check(self, channels: int | None = None) -> str:
        """As of ``Grid``."""
        if problem := scale_problem(self.scale, ()):
            return problem
        good = self.tau in GRANULARITIES
        return "" if good else f"granularity {self.tau} is not one of {GRANULARITIES}"

    def bounds(self) -> tuple[float, float]:
        """As of ``Grid``."""
        return 0.0, float(self.scale)

    def to_packed(self) -> PackedActivation:
        """As of ``Grid``."""
        return PackedActivation(self.name, self.bits, float(self.scale), 0, self.tau)

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        """As of ``Grid``."""
        return cls(packed.bits, torch.tensor(packed.scale), cast(int, packed.detail))

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        """As of ``Grid``."""
        lawful = packed.zero_point == 0 and packed.detail in range(1, MAX_TAU + 1)
        return "" if lawful else packed.unlawful

    def facts(self) -> dict[str, Any]:
        """As of ``Grid``, and ``tau``."""
        return {**super().facts(), "tau": self.tau}

    def levels_each_octave(self) -> int:
        """As of ``Grid``."""
        return self.tau

    def refuse_graph(self) -> str:
        """As of ``Grid``: nothing."""
        return ""

    def onnx(self, graph: Writer, x: str) -> str:
        """As of ``Grid``.

        ``log2(x / scale)`` becomes ``log(x / scale) * (1 / log 2)``: where a probability lies within a
        rounding error of the middle between two levels, its code may differ from PyTorch's by one.
        """
        levels = graph.constant(log2_levels(self.scale.cpu(), self.tau, self.bits).numpy())
        return graph.add("Gather", levels, graph.add("Cast", self._onnx_steps(graph, x), to=_INT32))

    def onnx_fast(self, graph: Writer, x: str) -> str:
        """As of ``Grid``, to the last rounding, without looking each value up in a table.

        ONNX Runtime's ``Gather`` takes the values one by one; an exponential and a threshold are vectorised.
        """
        scale = float(self.scale)
        half_way = scale * 2.0 ** (-(2**self.bits - 1.5) / self.tau)  # the largest code stands for zero
        steps = self._onnx_steps(graph, x)
        exponent = graph.add("Mul", steps, graph.constant(-math.log(2) / self.tau))
        value = graph.add("Mul", graph.add("Exp", exponent), graph.constant(scale))
        return graph.add("ThresholdedRelu", value, alpha=half_way)

    def _onnx_steps(self, graph: Writer, x: str) -> str:
        """The codes as float32."""
        exponent = graph.add("Log", graph.add("Div", x, graph.constant(float(self.scale))))
        steps = graph.add("Round", graph.add("Mul", exponent, graph.constant(-self.tau / math.log(2))))
        return graph.add("Clip", steps, graph.constant(0), graph.constant(2**self.bits - 1))


def _has_flat(codes: Tensor) -> bool:
    """Whether any value lies where the grid has no slope; assumed of what is not on a CPU.

    Other devices would have to finish all their work to tell.
    """
    if codes.device.type != "cpu":
        return True
    first, last = (float(end) for end in codes.aminmax())
    return not (first >= 0 and last < math.inf)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, tau: int, bits: int, mask: Tensor | None) -> Tensor:
        codes = x.div(scale).log2_().mul_(-tau).round_()
        clamped = codes.clamp(0, 2**bits - 1)
        output = _values_of_whole(clamped, scale, tau, bits)
        chosen = None if mask is None else ones_where(mask, x)
        if chosen is not None:
            output = select(chosen, output, x)
        ratio = output / x  # 1 where the coin left x alone, 0 where the code is that of zero
        if _has_flat(codes):
            # Above its largest value the grid is flat; zero has an infinite code, and 0 / 0 is no number.
            flat = codes.neg().clamp_(0.0, 1.0) + codes.sub(_BEYOND).clamp_(0.0, 1.0)
            left = torch.zeros_like(x) if chosen is None else chosen.neg_().add_(1.0)
            ratio = select(flat, left, ratio.nan_to_num_(0.0, 0.0, 0.0))
        ctx.save_for_backward(ratio)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (ratio,) = ctx.saved_tensors
        return gradient * ratio, None, None, None, None


def straight_through(x: Tensor, scale: Tensor, tau: int, bits: int, mask: Tensor | None = None) -> Tensor:
    """``x`` on the logarithmic grid, differentiable in ``x``; args as of ``log2_codes`` and
    ``affine.straight_through``."""
    return cast(Tensor, _StraightThrough.apply(x, scale, tau, bits, mask))  # type: ignore[no-untyped-call]
