"""What sits in a quantizer while it observes: a histogram, the attention-map search, or channels."""

from __future__ import annotations

from torch import Tensor

from saqsam.quantizer import GROUPED, LOG2, Quantizer
from saqsam.ranges.attention_maps import AttentionObserver
from saqsam.ranges.channels import ChannelObserver
from saqsam.ranges.histogram import Histogram
from saqsam.recipe import Ranges

_ENOUGH = 1 << 18
"""So many values of a tensor are counted at least, where it has them."""
_STRIDES = (61, 31, 7)
"""Of a large tensor every so-manieth value is counted, which no quantile or error notices; smallest and
largest are those of all. The strides divide no width of any SAM, so that every channel is counted alike."""


def stride_for(values: int) -> int:
    """The longest stride that leaves enough of so many values; 1 for a small tensor."""
    return next((stride for stride in _STRIDES if values // stride >= _ENOUGH), 1)


class HistogramObserver:
    """Counts the values that pass; see ``ranges.histogram``."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.histogram = Histogram()

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """Add the values of ``x`` (any shape); ``value`` is not looked at."""
        del value
        seen = Histogram.of(x, self.site, every=stride_for(x.numel()))
        self.histogram = self.histogram.merge(seen)


def observer_for(
    quantizer: Quantizer, ranges: Ranges
) -> HistogramObserver | AttentionObserver | ChannelObserver:
    """The observer that a quantizer's grid needs."""
    if quantizer.grid == LOG2:
        return AttentionObserver(quantizer.site, quantizer.bits, ranges.norm)
    if quantizer.grid == GROUPED:
        return ChannelObserver(quantizer.site)
    return HistogramObserver(quantizer.site)
