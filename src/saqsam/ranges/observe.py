"""What sits in a quantizer while it observes: a mergeable histogram, or the attention-map search."""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.errors import InvariantError, NumericalError
from saqsam.grids.log2 import GRANULARITIES, log2_nearest
from saqsam.models.sampling import sample_maps
from saqsam.quantizer import LOG2, Quantizer
from saqsam.ranges.histogram import Histogram
from saqsam.recipe import Ranges

_SCALES = torch.exp2(-torch.arange(0, 33) / 4)
"""Candidate largest values 1 … 2**-8, a quarter of an octave apart: the ratio is what the grid sees."""
_MANY, _EVERY = 1 << 21, 7
"""Of a tensor with more than two million values every seventh is counted, which no quantile or error
notices; smallest and largest are those of all. Seven divides no width of any SAM, so that every channel
is counted alike."""


class HistogramObserver:
    """Counts the values that pass; see ``ranges.histogram``."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.histogram = Histogram()

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """Add the values of ``x`` (any shape); ``value`` is not looked at."""
        del value
        every = _EVERY if x.numel() > _MANY else 1
        self.histogram = self.histogram.merge(Histogram.of(x, self.site, every=every))


class AttentionObserver:
    """Sums, for each candidate grid, the error it causes in the attention's output.

    The scale search of PTQ4SAM (section 3.3): for granularity 1, 2, 4 and each scale, the error is
    ``mean |x_hat V - x V|**norm`` with the attention's own value tensor V. Sums over images are kept
    for all candidates, so images can be seen in any order and none has to be stored.
    """

    def __init__(self, site: str, bits: int, norm: float) -> None:
        self.site, self.bits, self.norm = site, bits, norm
        self.errors = torch.zeros(len(GRANULARITIES), len(_SCALES), dtype=torch.float64)
        self.highest = 0.0
        self.rows = 0

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """Score all candidates on one set of maps.

        Args:
            x: ``(maps, queries, keys)`` or ``(prompts, heads, queries, keys)`` probabilities.
            value: values in the same layout, ``(..., keys, channels)``.

        Raises:
            NumericalError: NaN or infinity in the maps.
        """
        if value is None:
            raise InvariantError(self.site, "the attention map was observed without its values")
        rows, values = sample_maps(x, value)
        if not bool(torch.isfinite(rows).all()):
            raise NumericalError(self.site, "NaN or infinity in the attention map")
        self.highest = max(self.highest, float(rows.max()))
        self.rows += rows.shape[0] * rows.shape[1]
        target = rows @ values
        exponents = rows.log2()
        for row, tau in enumerate(GRANULARITIES):
            errors = []
            for scale in _SCALES.tolist():
                approximate = log2_nearest(exponents, scale, tau, self.bits) @ values
                errors.append((approximate - target).abs_().pow_(self.norm).mean())
            self.errors[row] += torch.stack(errors).double().cpu()

    def best(self) -> tuple[Tensor, int]:
        """Scale (scalar float32) and granularity with the least error over all images seen."""
        winner = int(torch.argmin(self.errors))
        return _SCALES[winner % len(_SCALES)].clone(), GRANULARITIES[winner // len(_SCALES)]


def observer_for(quantizer: Quantizer, ranges: Ranges) -> HistogramObserver | AttentionObserver:
    """The observer that a quantizer's grid needs."""
    if quantizer.grid == LOG2:
        return AttentionObserver(quantizer.site, quantizer.bits, ranges.norm)
    return HistogramObserver(quantizer.site)
