"""Bimodal integration (BIG, PTQ4SAM section 3.2): flip signs so that two humps of keys become one.

A key tensor whose channels have means of opposite sign has two peaks. Multiplying channel c of both the
query and the key projection by the sign of the key channel's mean changes no product, since the sign
squared is 1. Differences from the reference code: a channel whose mean is exactly zero keeps its sign
(there it would be erased), and the density is estimated from a histogram of all prompts rather than from
every sample of the first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saqsam.calibrate.histogram import Histogram
from saqsam.folds.projections import KEY, QUERY, Projections

POINTS, DISTANCE, HEIGHT = 128, 32, 0.01
"""Grid points of the density, least distance of peaks in points, least height as a share of the sum."""


def is_bimodal(histogram: Histogram) -> bool:
    """Whether the density of the values has exactly two peaks (Gaussian kernels, Scott's bandwidth)."""
    centres, counts = histogram.bins()
    if len(centres) < 3:
        return False
    from scipy.signal import find_peaks  # of all that is imported, a tenth of the time, and only for this
    from scipy.stats import gaussian_kde

    density = gaussian_kde(centres, bw_method=histogram.total**-0.2, weights=counts)
    values = density(np.linspace(histogram.low, histogram.high, POINTS))
    peaks, _ = find_peaks(values, height=HEIGHT * values.sum(), distance=DISTANCE)
    return len(peaks) == 2


def key_signs(projections: Projections) -> Tensor:
    """Sign of each key channel's mean, ``(channels,)`` of +1 and -1."""
    mean = projections.statistics[KEY].mean
    return torch.where(mean < 0, -1.0, 1.0)


def flip_signs(projections: Projections) -> int:
    """Multiply query and key channels by the key's sign; returns how many channels were flipped."""
    signs = key_signs(projections)
    for kind in (QUERY, KEY):
        weight, bias = projections.rows(kind)
        weight.mul_(signs[:, None])
        bias.mul_(signs)
    return int((signs < 0).sum())
