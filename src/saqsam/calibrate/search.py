"""Reading a range ``[low, high]`` from a histogram: min-max, percentile, least quantization error.

The least-error search minimises ``mean |x_hat - x|**2.4`` (p = 2.4, as in QDrop, PTQ4SAM and SAQ-SAM)
over both ends of the range. The reference runs a nested scalar search over the whole tensor, 100 to
1,000 full passes for each image; here the tensor is a histogram of some thousand bins, so a coarse
grid and three refinements of it cost milliseconds. ``tests/ranges`` compares the two.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from saqsam.calibrate.histogram import Histogram
from saqsam.grids.affine import affine_parameters

_COARSE = np.linspace(0.04, 1.0, 25)
_REFINEMENTS = 3


def minmax_range(histogram: Histogram) -> tuple[float, float]:
    """The smallest and the largest value seen."""
    return histogram.low, histogram.high


def percentile_range(histogram: Histogram, fraction: float) -> tuple[float, float]:
    """The two-sided quantiles ``1 - fraction`` and ``fraction``, for example 0.9999."""
    return histogram.quantile(1.0 - fraction), histogram.quantile(fraction)


def least_error_range(histogram: Histogram, bits: int, norm: float = 2.4) -> tuple[float, float]:
    """The range whose affine grid has the least mean ``|x_hat - x|**norm`` on the histogram.

    Both ends are shrunk separately, from the values seen towards zero, which every grid contains;
    one-sided tensors move one end only. Ties go to the wider range.
    """
    centres, counts = histogram.bins()
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high:
        return low, high
    unit = max(-low, high)  # errors are powers: in units of the range they neither overflow nor vanish
    centres, low, high = centres / unit, low / unit, high / unit
    weights = counts / counts.sum()
    step = float(_COARSE[1] - _COARSE[0])
    best = _best(centres, weights, low * _ends(low), high * _ends(high), bits, norm)
    for _ in range(_REFINEMENTS):
        step /= 3
        around = np.arange(-3, 4) * step
        lows = np.unique(np.clip(best[0] + around * low, low, 0.0))
        highs = np.unique(np.clip(best[1] + around * high, 0.0, high))[::-1]
        best = _best(centres, weights, lows, highs, bits, norm)
    return best[0] * unit, best[1] * unit


def range_error(histogram: Histogram, low: float, high: float, bits: int, norm: float = 2.4) -> float:
    """Mean ``|x_hat - x|**norm`` that the affine grid of ``[low, high]`` causes on the histogram."""
    centres, counts = histogram.bins()
    errors = _errors(centres, counts / counts.sum(), np.array([low]), np.array([high]), bits, norm)
    return float(errors[0])


def _ends(bound: float) -> NDArray[np.float64]:
    """Shrink factors for one end; an end that is zero has nothing to shrink."""
    return _COARSE[::-1] if bound != 0.0 else np.ones(1)


def _best(
    centres: NDArray[np.float64],
    weights: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    bits: int,
    norm: float,
) -> tuple[float, float]:
    """The pair of ends with the least error among all combinations."""
    low, high = (grid.ravel() for grid in np.meshgrid(lows, highs, indexing="ij"))
    valid = high > low
    low, high = low[valid], high[valid]
    winner = int(np.argmin(_errors(centres, weights, low, high, bits, norm)))
    return float(low[winner]), float(high[winner])


def _errors(
    centres: NDArray[np.float64],
    weights: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    bits: int,
    norm: float,
) -> NDArray[np.float64]:
    """Error of each candidate range: shape ``(candidates,)``, in chunks of bounded memory."""
    scale, zero_point = affine_parameters(torch.from_numpy(lows), torch.from_numpy(highs), bits)
    x, w = torch.from_numpy(centres).float(), torch.from_numpy(weights).float()
    errors = []
    for part_scale, part_zero in zip(scale.split(128), zero_point.split(128), strict=True):
        s, z = part_scale[:, None], part_zero[:, None]
        codes = torch.minimum(torch.maximum((x / s).round_(), -z), 2**bits - 1 - z)
        difference = codes.mul_(s).sub_(x).abs_().pow_(norm)
        errors.append(difference @ w)
    return torch.cat(errors).double().numpy()
