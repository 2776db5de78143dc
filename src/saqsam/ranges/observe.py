"""What sits in a quantizer while it observes: a histogram, the attention-map search, or channels."""

from __future__ import annotations

from torch import Tensor

from saqsam.quantizer import GROUPED, LOG2, Quantizer
from saqsam.ranges.attention_maps import AttentionObserver
from saqsam.ranges.channels import ChannelObserver
from saqsam.ranges.histogram import Histogram
from saqsam.recipe import Ranges

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


def observer_for(
    quantizer: Quantizer, ranges: Ranges
) -> HistogramObserver | AttentionObserver | ChannelObserver:
    """The observer that a quantizer's grid needs."""
    if quantizer.grid == LOG2:
        return AttentionObserver(quantizer.site, quantizer.bits, ranges.norm)
    if quantizer.grid == GROUPED:
        return ChannelObserver(quantizer.site)
    return HistogramObserver(quantizer.site)
