"""Products of two frozen grids, exact: what is simulated is what an integer kernel computes.

The values of an affine grid are ``scale * steps`` with whole steps, so a product of two of them is
``scale * scale' * sum(steps * steps')``. float32 holds every whole number up to ``2**24``: as long as the
sums of magnitudes stay below, the order of additions does not matter, and the result is the same on any
number of threads, in any batch, and in any integer kernel. Multiplying the values themselves rounds every
addition, and a value that this moves over the middle between two codes sets off others
(:mod:`saqsam.export.codes`).

Only frozen grids are multiplied so; while ranges and roundings are learned, values are, with their gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.modules.quantizer import Quantizer, Stage

WHOLE = 2**24
"""Up to here float32 holds every whole number."""


def has_steps(quantizer: Quantizer | None) -> bool:
    """Whether what this quantizer returns is a scale times whole steps, for good."""
    return (
        quantizer is not None and quantizer.stage is Stage.FROZEN and quantizer.grid.as_affine() is not None
    )


def holds_sums(*operands: Tensor) -> bool:
    """Whether sums of steps of these operands stay whole: half precision has no room for them, and a gradient
    does not pass through their rounding."""
    return all(
        x.dtype in (torch.float32, torch.float64)
        and not x.requires_grad
        and not torch.is_autocast_enabled(x.device.type)
        for x in operands
    )


def largest_step(grid: Affine) -> float:
    """Size of the largest step of a grid with one scale."""
    zero_point = float(grid.zero_point)
    return max(zero_point, float(2**grid.bits - 1) - zero_point)


def exact_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, inputs: Quantizer, weights: Quantizer
) -> Tensor:
    """``F.linear`` of two operands on their grids: ``(..., in)`` and ``(out, in)`` -> ``(..., out)``.

    Args:
        x: values on the grid of ``inputs``.
        weight: values on the grid of ``weights``, one scale for each row.
    """
    left, right = inputs.affine.steps(x), weights.affine.steps(weight)
    limit = WHOLE / largest_step(inputs.affine)
    if right.shape[1] * 2**weights.bits > limit and _size(right) > limit:
        half = right.shape[1] // 2
        parts = (right[:, :half], right[:, half:])
        if max(_size(part) for part in parts) > limit:
            product = F.linear(left.double(), right.double()).to(x.dtype)
        else:  # two exact sums, added with a single rounding
            product = F.linear(left[..., :half], parts[0]).add_(F.linear(left[..., half:], parts[1]))
    else:
        product = F.linear(left, right)
    product.mul_(inputs.affine.scale * weights.affine.scale)
    return product if bias is None else product.add_(bias)


def _size(weight: Tensor) -> float:
    """The largest sum of magnitudes of any row."""
    return float(weight.abs().sum(1).max())


def exact_scores(query: Tensor, key: Tensor, scale: float, queries: Quantizer, keys: Quantizer) -> Tensor:
    """``scale * query @ key^T`` of values on two grids: ``(..., N, d)``, ``(..., M, d)`` -> ``(..., N, M)``.

    8 bits are exact up to a width of 258 for each head; SAM's is 64 or 80.
    """
    left, right = queries.affine, keys.affine
    scaled = (left.scale.double() * scale).float() * right.scale
    return torch.matmul(left.steps(query), right.steps(key).transpose(-2, -1)).mul_(scaled)


def exact_weighted(probabilities: Tensor, value: Tensor, maps: Quantizer, values: Quantizer) -> Tensor:
    """``probabilities @ value`` of values on two grids: ``(..., N, M)``, ``(..., M, d)`` -> ``(..., N, d)``.

    Rows of a softmax add up to one, so that their rounded steps add up to ``2 / scale`` at most: exact at any
    scale from 4e-5, a map whose largest value is 0.01 at 8 bits.
    """
    left, right = maps.affine, values.affine
    return torch.matmul(left.steps(probabilities), right.steps(value)).mul_(left.scale * right.scale)
