"""From what an observer saw, or from a weight, to the quantizer's scale and zero point."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.grids.affine import affine_parameters
from saqsam.quantizer import Quantizer
from saqsam.ranges.attention_maps import AttentionObserver
from saqsam.ranges.histogram import Histogram
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


def settle_activation(quantizer: Quantizer, ranges: Ranges) -> SiteRange | None:
    """Choose the range of an observed quantizer and start it quantizing; ``None`` if it saw nothing."""
    observer = quantizer.observer
    if isinstance(observer, AttentionObserver) and observer.rows:
        quantizer.set_log2(*observer.best())
        return SiteRange(0.0, observer.highest, observer.rows)
    if isinstance(observer, HistogramObserver) and observer.histogram.total:
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
    return None


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
