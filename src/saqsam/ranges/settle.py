"""From what an observer saw, or from a weight, to the quantizer's scale and zero point."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.grids.affine import affine_parameters
from saqsam.quantizer import HYBRID, Quantizer
from saqsam.ranges.attention_maps import AttentionObserver
from saqsam.ranges.channels import ChannelObserver, channel_parameters, grouped_parameters
from saqsam.ranges.histogram import Histogram
from saqsam.ranges.hybrid import hybrid_parameters
from saqsam.ranges.observe import HistogramObserver
from saqsam.ranges.search import least_error_range, minmax_range, percentile_range
from saqsam.ranges.weights import weight_parameters
from saqsam.recipe import Ranges


@dataclass(frozen=True)
class SiteRange:
    """What was seen at a site.

    Attributes:
        low, high: smallest and largest value seen.
        count: how many values.
    """

    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def settle_activation(quantizer: Quantizer, ranges: Ranges, groups: int = 1) -> SiteRange | None:
    """Choose the range of an observed quantizer and start it quantizing; ``None`` if it saw nothing.

    ``groups`` is how many groups of channels a grouped grid may have.
    """
    observer = quantizer.observer
    if isinstance(observer, AttentionObserver) and observer.rows:
        quantizer.set_log2(*observer.best())
        return SiteRange(0.0, observer.highest, observer.rows)
    if isinstance(observer, HistogramObserver) and observer.histogram.total:
        if quantizer.grid == HYBRID:
            return _settle_hybrid(quantizer, ranges, observer.histogram)
        low, high = choose_range(observer.histogram, ranges, quantizer.bits)
        quantizer.set_affine(
            *affine_parameters(
                torch.tensor(low, dtype=torch.float64),
                torch.tensor(high, dtype=torch.float64),
                quantizer.bits,
            )
        )
        seen = observer.histogram
        return SiteRange(seen.low, seen.high, seen.total)
    if isinstance(observer, ChannelObserver) and observer.low is not None and observer.high is not None:
        channel_ranges = channel_parameters(observer.low, observer.high, quantizer.bits)
        quantizer.set_grouped(*grouped_parameters(channel_ranges, groups, quantizer.bits))
        quantizer.channel_ranges = channel_ranges
        return SiteRange(float(observer.low.min()), float(observer.high.max()), observer.count)
    return None


def _settle_hybrid(quantizer: Quantizer, ranges: Ranges, seen: Histogram) -> SiteRange:
    """Both ends by the recipe's rule, except that ``mse`` searches the upper one with the grid itself."""
    low, high = seen.low, seen.high
    if ranges.method == "percentile":
        low, high = percentile_range(seen, ranges.percentile)
    cut = ranges.method == "mse"
    quantizer.set_hybrid(*hybrid_parameters(seen, low, high, quantizer.bits, ranges.norm, cut=cut))
    return SiteRange(seen.low, seen.high, seen.total)


def settle_weight(quantizer: Quantizer, ranges: Ranges, weight: Tensor) -> SiteRange:
    """Choose the ranges of a weight, one for each output channel, and start it quantizing."""
    scale, zero_point = weight_parameters(
        weight,
        quantizer.bits,
        ranges.method,
        fraction=ranges.percentile,
        norm=ranges.norm,
        site=quantizer.site,
    )
    quantizer.set_affine(scale, zero_point)
    return SiteRange(float(weight.min()), float(weight.max()), weight.numel())


def choose_range(histogram: Histogram, ranges: Ranges, bits: int) -> tuple[float, float]:
    """Low and high end by the recipe's rule."""
    if ranges.method == "percentile":
        return percentile_range(histogram, ranges.percentile)
    if ranges.method == "mse":
        return least_error_range(histogram, bits, ranges.norm)
    return minmax_range(histogram)
