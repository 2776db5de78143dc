"""The search for a hybrid grid (HLUQ, AHCPTQ section 3.2): knee, share of logarithmic levels, code of zero.

The paper tries three knees and three shares by the error of the following layer's output, and puts the
lowest level on the tensor's minimum. Here all of them, with every place for zero among the logarithmic
levels, are tried on the histogram of the tensor itself: after GELU it can pay to give up the small negative
values, so that the fine levels lie around zero, where most values are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saqsam.calibrate.histogram import Histogram
from saqsam.grids.hybrid import Hybrid, hybrid_levels, hybrid_round_trip, log_levels_for, separable

KNEES = (0.1, 0.3, 0.5)
"""Candidates for the knee, as shares of the range."""
SHARES = (0.125, 0.25, 0.5)
"""Candidates for the share of codes that are logarithmic."""
TOPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Candidates for the largest value, as shares of the largest one seen, where it may be cut."""


def hybrid_grid(
    histogram: Histogram, low: float, high: float, bits: int, norm: float, *, cut: bool
) -> Hybrid:
    """The best grid for what was seen.

    Args:
        histogram: what was seen.
        low, high: the range to cover; widened to contain zero.
        bits: 2 to 8.
        norm: exponent of the error.
        cut: whether smaller largest values are tried as well.

    Returns:
        The grid with the least mean ``|x_hat - x|**norm``; ties go to the first candidate.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    high = high or max(-low, 1e-6)  # nothing above zero: any grid does
    centres, counts = histogram.bins()
    x = torch.from_numpy(centres / high).float()  # in units of the range, errors neither overflow nor vanish
    weights = torch.from_numpy(counts / counts.sum())
    best, found = np.inf, (torch.full((2,), high), torch.tensor(0.0), 1)
    for scale, zero_point, log_levels in _candidates(low / high, bits, TOPS if cut else TOPS[:1]):
        levels = hybrid_levels(scale[0], scale[1], zero_point, log_levels, bits)
        if not separable(levels * high):
            continue
        error = float((hybrid_round_trip(x, levels) - x).abs().double().pow(norm) @ weights)
        if error < best:
            best, found = error, (scale * high, torch.tensor(float(zero_point)), log_levels)
    scale, zero, count = found
    return Hybrid(bits, scale[0], scale[1], zero, count)


def _candidates(low: float, bits: int, tops: tuple[float, ...]) -> list[tuple[Tensor, int, int]]:
    """Grids for values from ``low`` (not above 0) to 1, each different one once."""
    found = []
    for log_levels in sorted({log_levels_for(share, bits) for share in SHARES}):
        evens = 2**bits - 1 - log_levels
        for top in tops:
            for share in KNEES:
                for zero_point in range(log_levels + 1 if low < 0 else 1):
                    knee = share * (top if zero_point == 0 else top - low)
                    shift = knee * 2.0 ** (zero_point - log_levels) if zero_point else 0.0
                    step = (top + shift - knee) / evens
                    found.append((torch.tensor([knee, step]), zero_point, log_levels))
    return found
