"""Per-output-channel ranges of a weight tensor.

The published search tries 100 widths times ``2**bits`` zero points for every channel: 1,600 passes
over a 4-bit weight, 25,600 over an 8-bit one. Here 39 suffice at any bits: the width is scanned with the
zero point that the channel's own asymmetry suggests, then its neighbours are tried, each with widths
around the best so far. ``tests/ranges`` holds the errors against the published ones.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from saqsam.errors import NumericalError
from saqsam.grids.affine import SMALLEST_SCALE, affine_parameters

_WIDTHS = tuple(n / 20 for n in range(20, 1, -1))
"""Shares of the whole range, widest first."""
_ROUNDS = (
    ((-1, 0, 1), (-0.12, -0.06, 0.0, 0.06, 0.12)),
    ((0,), (-0.03, 0.03)),
    ((0,), (-0.015, 0.015)),
)
"""Shifts of the zero point, and relative changes of the width to try with each, around the best so far."""
_CHUNK = 1 << 22
"""Elements handled at once, so that temporaries stay in cache and memory stays flat."""


def weight_parameters(
    weight: Tensor,
    bits: int,
    method: str,
    *,
    fraction: float = 0.9999,
    norm: float = 2.4,
    site: str = "weight",
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for each output channel.

    Args:
        weight: ``(out, ...)`` float.
        bits: 2 to 8.
        method: ``"minmax"``, ``"percentile"`` or ``"mse"`` (least mean ``|error|**norm``).
        fraction: two-sided quantile of the percentile method.
        norm: exponent of the mse method; 2.4 in the papers.
        site: name used in messages.

    Returns:
        ``scale`` and ``zero_point``, each ``(out,)`` float32.

    Raises:
        NumericalError: the weight holds NaN or infinity.
    """
    flat = weight.detach().float().reshape(weight.shape[0], -1)
    if not bool(torch.isfinite(flat).all()):
        raise NumericalError(site, "NaN or infinity in the weight")
    rows = max(1, _CHUNK // flat.shape[1])
    parts = [_rows_parameters(part, bits, method, fraction, norm) for part in flat.split(rows)]
    scales, zero_points = zip(*parts, strict=True)
    return torch.cat(scales), torch.cat(zero_points)


def _rows_parameters(
    rows: Tensor, bits: int, method: str, fraction: float, norm: float
) -> tuple[Tensor, Tensor]:
    low, high = rows.amin(1), rows.amax(1)
    if method == "percentile":
        ends = torch.quantile(rows, torch.tensor([1.0 - fraction, fraction], device=rows.device), dim=1)
        low, high = ends[0], ends[1]
    scale, zero_point = affine_parameters(low, high, bits)
    if method != "mse":
        return scale, zero_point
    return _least_error(rows, scale, zero_point, bits, norm)


def _least_error(
    rows: Tensor, scale: Tensor, zero_point: Tensor, bits: int, norm: float
) -> tuple[Tensor, Tensor]:
    """A scan and three refinements: each keeps, channel by channel, whatever errs least."""
    best = _Best(rows, bits, norm, scale, zero_point)
    for width in _WIDTHS:
        best.offer(scale * width, zero_point)
    for shifts, changes in _ROUNDS:
        scale, zero_point = best.scale, best.zero_point
        for shift, change in itertools.product(shifts, changes):
            best.offer(scale * (1 + change), (zero_point + shift).clamp(0, 2**bits - 1))
    return best.scale, best.zero_point


class _Best:
    """The least error seen so far, and its parameters, for each row."""

    def __init__(self, rows: Tensor, bits: int, norm: float, scale: Tensor, zero_point: Tensor) -> None:
        self.rows, self.bits, self.norm = rows, bits, norm
        self.scale, self.zero_point = scale, zero_point
        self.error = self._error(scale, zero_point)

    def offer(self, scale: Tensor, zero_point: Tensor) -> None:
        scale = scale.clamp(min=SMALLEST_SCALE)
        error = self._error(scale, zero_point)
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.scale = torch.where(better, scale, self.scale)
        self.zero_point = torch.where(better, zero_point, self.zero_point)

    def _error(self, scale: Tensor, zero_point: Tensor) -> Tensor:
        lowest, highest = -zero_point[:, None], 2**self.bits - 1 - zero_point[:, None]
        steps = (self.rows / scale[:, None]).round_()
        steps = torch.minimum(torch.maximum(steps, lowest), highest)
        return steps.mul_(scale[:, None]).sub_(self.rows).abs_().pow_(self.norm).sum(1)
