"""The affine grid: ``2**bits`` evenly spaced values, zero among them.

``code = clamp(round_half_even(x / scale) + zero_point, 0, 2**bits - 1)`` and
``x_hat = (code - zero_point) * scale``. The zero point is added *after* rounding: this is the
formula of ONNX ``QuantizeLinear`` and gives the same codes bit for bit, which
``round(x / scale + zero_point)`` does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    steps = (x / scale).round_()
    if zero_point.ndim == 0:
        steps.clamp_(*step_limits(zero_point, bits))
    else:
        steps = torch.minimum(torch.maximum(steps, -zero_point), 2**bits - 1 - zero_point)
    return steps.mul_(scale)


def step_limits(zero_point: Tensor, bits: int) -> tuple[Any, Any]:
    """Smallest and largest step of a grid with one zero point, for ``clamp``.

    Numbers on a CPU, where clamping by them is many times faster; scalar tensors on other devices, which
    would have to finish all their work to tell a number, and while a program is compiled.
    """
    if zero_point.device.type == "cpu" and not torch.compiler.is_compiling():
        origin = float(zero_point)
        return -origin, 2**bits - 1 - origin
    return -zero_point, 2**bits - 1 - zero_point
