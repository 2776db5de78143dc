"""The affine grid: ``2**bits`` evenly spaced values, zero among them.

``code = clamp(round_half_even(x / scale) + zero_point, 0, 2**bits - 1)`` and
``x_hat = (code - zero_point) * scale``. The zero point is added *after* rounding: this is the
formula of ONNX ``QuantizeLinear`` and gives the same codes bit for bit, which
``round(x / scale + zero_point)`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.grids.grid import Grid, Place, Writer, scale_problem, zero_point_problem
from saqsam.grids.packed import PackedActivation
from saqsam.grids.pieces import in_pieces, mask_of, ones_where, select
from saqsam.grids.registry import register_grid

SMALLEST_SCALE = 1e-8
"""A constant all-zero tensor still needs a scale; this one keeps every operation finite."""


def affine_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid that spans ``[low, high]`` widened to contain zero.

    Args:
        low: float tensor, any shape (a scalar for per-tensor, ``(channels,)`` for per-channel).
        high: same shape as ``low``, nowhere below it.
        bits: 2 to 8.

    Returns:
        ``scale`` float32 and ``zero_point`` float32 holding integers ``0 … 2**bits - 1``, both of
        ``low``'s shape (method of Jacob et al. 2018, section 2.1; also the reference code of SAQ-SAM).
    """
    levels = 2**bits - 1
    low = torch.clamp(low.double(), max=0.0)
    high = torch.clamp(high.double(), min=0.0)
    scale = torch.clamp((high - low) / levels, min=SMALLEST_SCALE).float()
    zero_point = torch.clamp(-torch.round(low / scale.double()), 0, levels).float()
    return scale, zero_point


def affine_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Integer codes of ``x``, as a float tensor of the same shape.

    ``scale`` and ``zero_point`` must broadcast against ``x``.
    """
    return (torch.round(x / scale) + zero_point).clamp_(0, 2**bits - 1)


def affine_values(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real numbers that ``codes`` stand for: ``(codes - zero_point) * scale``."""
    return (codes - zero_point) * scale


def affine_round_trip(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """``x`` moved to the nearest value of the grid, same shape and dtype; ``x`` itself is not touched.

    Equal to ``affine_values(affine_codes(x))`` exactly: clamping before the zero point is added
    compares integers all the same. Done in place on one temporary because activations are large.
    """
    return _clamped((x / scale).round_(), zero_point, bits, spend=True).mul_(scale)


def _clamped(steps: Tensor, zero_point: Tensor, bits: int, *, spend: bool = False) -> Tensor:
    """Steps within the grid, same shape; ``spend``: ``steps`` may be written to."""
    if zero_point.ndim == 0:
        clamp = steps.clamp_ if spend else steps.clamp
        return clamp(*step_limits(zero_point, bits))
    return torch.minimum(torch.maximum(steps, -zero_point), 2**bits - 1 - zero_point)


def step_limits(zero_point: Tensor, bits: int) -> tuple[Any, Any]:
    """Smallest and largest step of a grid with one zero point, for ``clamp``.

    Numbers on a CPU, where clamping by them is many times faster; scalar tensors on other devices, which
    would have to finish all their work to tell a number, and while a program is compiled.
    """
    if zero_point.device.type == "cpu" and not torch.compiler.is_compiling():
        origin = float(zero_point)
        return -origin, 2**bits - 1 - origin
    return -zero_point, 2**bits - 1 - zero_point


@register_grid
class Affine(Grid):
    """``2**bits`` evenly spaced values, zero among them.

    Args:
        bits: 2 to 8.
        scale: scalar, or ``(channels,)`` for a weight whose output channels are dimension 0; the distance of
            neighbouring values, in units of the tensor.
        zero_point: of the shape of ``scale``, float holding integers ``0 .. 2**bits - 1``: the code of zero.
    """

    name = "affine"
    places = frozenset(Place)
    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(bits)
        self.keep(scale=scale, zero_point=zero_point)

    @classmethod
    def suits(cls, place: Place) -> bool:
        """As of ``Grid``; files hold weights on this grid alone, not on one derived from it."""
        return super().suits(place) and (place is not Place.WEIGHT or cls is Affine)

    @classmethod
    def spanning(cls, low: Tensor, high: Tensor, bits: int) -> Self:
        """The grid that spans ``[low, high]`` widened to contain zero, as ``affine_parameters``."""
        return cls(bits, *affine_parameters(low, high, bits))

    def shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point shaped to broadcast against ``x``."""
        if self.scale.ndim == 0:
            return self.scale, self.zero_point
        shape = (len(self.scale),) + (1,) * (x.ndim - 1)
        return self.scale.view(shape), self.zero_point.view(shape)

    def codes(self, x: Tensor) -> Tensor:
        """As of ``Grid``; float."""
        return affine_codes(x, *self.shaped(x), self.bits)

    def values(self, codes: Tensor) -> Tensor:
        """As of ``Grid``."""
        return affine_values(codes, *self.shaped(codes))

    def round_trip(self, x: Tensor) -> Tensor:
        """As of ``Grid``."""
        return affine_round_trip(x, *self.shaped(x), self.bits)

    def steps(self, x: Tensor) -> Tensor:
        """The whole steps that values ``x`` on the grid are from zero, same shape, float."""
        return x.div(self.shaped(x)[0]).round_()

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """As of ``Grid``, for a grid with one scale."""
        scale = self.scale if numbers is None else numbers
        return straight_through(x, scale, self.zero_point, self.bits, mask)

    def numbers(self) -> Tensor:
        """As of ``Grid``: the scale."""
        return self.scale

    def with_numbers(self, numbers: Tensor) -> Self:
        """As of ``Grid``."""
        return type(self)(self.bits, numbers, self.zero_point)

    def check(self, channels: int | None = None) -> str:
        """As of ``Grid``."""
        shape = () if channels is None else (channels,)
        return scale_problem(self.scale, shape) or zero_point_problem(
            self.zero_point, shape, 2**self.bits - 1
        )

    def bounds(self) -> tuple[float, float]:
        """As of ``Grid``."""
        low = -self.zero_point * self.scale
        high = (2**self.bits - 1 - self.zero_point) * self.scale
        return float(low.min()), float(high.max())

    def to_packed(self) -> PackedActivation:
        """As of ``Grid``; a weight's grid has one number for each channel."""
        zero_point = self.zero_point.int()
        if self.scale.ndim == 0:
            return PackedActivation(self.name, self.bits, float(self.scale), int(zero_point), 0)
        scales, zero_points = tuple(self.scale.tolist()), tuple(zero_point.tolist())
        return PackedActivation(self.name, self.bits, scales, zero_points, 0)

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        """As of ``Grid``."""
        zero_point = torch.tensor(packed.zero_point, dtype=torch.float32)
        return cls(packed.bits, torch.tensor(packed.scale), zero_point)

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        """As of ``Grid``."""
        lawful = packed.zero_point in range(1 << packed.bits) and packed.detail == 0
        return "" if lawful else packed.unlawful

    def as_affine(self) -> Affine:
        """As of ``Grid``: itself."""
        return self

    def refuse_graph(self) -> str:
        """As of ``Grid``: nothing."""
        return ""

    def onnx(self, graph: Writer, x: str) -> str:
        """As of ``Grid``."""
        return graph.add("DequantizeLinear", self.onnx_codes(graph, x), *self.onnx_constants(graph))

    def onnx_codes(self, graph: Writer, x: str) -> str:
        """uint8 codes ``0 .. 2**bits - 1`` of a float value, same shape.

        ``QuantizeLinear`` saturates at 8 bits only, so narrower codes are clipped afterwards; the zero point
        is added after rounding half to even, in ONNX as here, so codes are equal bit for bit.
        """
        codes = graph.add("QuantizeLinear", x, *self.onnx_constants(graph))
        if self.bits == 8:
            return codes
        low, high = (graph.constant(code, np.uint8) for code in (0, 2**self.bits - 1))
        return graph.add("Clip", codes, low, high)

    def onnx_constants(self, graph: Writer) -> tuple[str, str]:
        """Scale, float32, and zero point, uint8, as scalars of the graph."""
        return graph.constant(float(self.scale)), graph.constant(int(self.zero_point), np.uint8)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None
    ) -> Tensor:
        output, slope = torch.empty_like(x), torch.empty_like(x)
        inside = torch.empty_like(x, dtype=torch.bool)
        for coins, (part, *found) in in_pieces(mask, x, output, slope, inside):
            _with_slopes(part, coins, found, scale, zero_point, bits)
        ctx.save_for_backward(slope, inside)
        ctx.by_channel = scale.ndim > 0
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, inside = ctx.saved_tensors
        to_x = gradient * ones_where(inside, gradient) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_x, None, None, None, None
        if ctx.by_channel:
            return to_x, (gradient * slope).flatten(0, -2).sum(0), None, None, None
        return to_x, torch.dot(gradient.flatten(), slope.flatten()), None, None, None


def _with_slopes(
    x: Tensor,
    mask: Tensor | None,
    found: Sequence[Tensor],
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
) -> None:
    """Write to ``found``: ``x`` on the grid, its derivative by the scale, where that by ``x`` is not 0."""
    output, slope, inside = found
    steps = x / scale
    codes = steps.round()
    clamped = _clamped(codes, zero_point, bits)
    ones = codes.sub_(clamped).abs_().neg_().add_(1.0).clamp_(min=0.0)  # codes are whole numbers
    torch.mul(clamped, scale, out=output)
    torch.sub(clamped, steps.mul_(ones), out=slope)
    if mask is not None:
        chosen = ones_where(mask, x)
        output.copy_(select(chosen, output, x))
        slope.mul_(chosen)
        ones = torch.maximum(ones, chosen.neg_().add_(1.0))
    inside.copy_(mask_of(ones))


def straight_through(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None = None
) -> Tensor:
    """``x`` on the affine grid, differentiable in ``x`` and ``scale``.

    Straight-through estimator (Bengio et al. 2013) for the rounding, true gradient for the clamping, as in
    LSQ (Esser et al. 2020, section 2.1). One step saves one slope and one mask instead of every intermediate.

    Args:
        x: any shape.
        scale: positive, scalar; or ``(channels,)``, one for each place in the last dimension of ``x``.
        zero_point: of its shape, holding integers.
        bits: 2 to 8.
        mask: bool of ``x``'s shape; where False, ``x`` itself is returned (see ``reconstruct.mixing``).
    """
    return cast(Tensor, _StraightThrough.apply(x, scale, zero_point, bits, mask))  # type: ignore[no-untyped-call]
