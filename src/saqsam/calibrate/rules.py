"""How each kind of grid is chosen: what observes its tensor, and which grid follows from what was seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from saqsam.calibrate.attention_maps import AttentionObserver
from saqsam.calibrate.channels import ChannelObserver, channel_parameters, grouped_grid
from saqsam.calibrate.histogram import Histogram, HistogramObserver
from saqsam.calibrate.hybrid import hybrid_grid
from saqsam.calibrate.search import least_error_range, minmax_range, percentile_range
from saqsam.errors import InvariantError
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.grids.grouped import Grouped
from saqsam.grids.hybrid import Hybrid
from saqsam.grids.log2 import Log2
from saqsam.modules.quantizer import Observer, Quantizer
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


class RangeRule(Protocol):
    """The rule of one kind of grid."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        """What sees the tensors that the grid will be chosen for."""

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        """Give the quantizer its grid by what its observer saw; ``None``, and no grid, if it saw nothing.

        ``groups`` is how many groups of channels may have a grid of their own.
        """


class EvenRule:
    """Of affine grids: both ends by the recipe's rule, on a histogram of all values."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        """A histogram."""
        return HistogramObserver(quantizer.site)

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        """As of ``RangeRule``."""
        seen = _histogram_of(quantizer)
        if seen is None:
            return None
        low, high = choose_range(seen, ranges, quantizer.bits)
        quantizer.cover(torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64))
        return SiteRange(seen.low, seen.high, seen.total)


class HybridRule:
    """Of hybrid grids: both ends by the recipe's rule; ``mse`` searches the upper one with the grid."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        """A histogram."""
        return HistogramObserver(quantizer.site)

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        """As of ``RangeRule``."""
        seen = _histogram_of(quantizer)
        if seen is None:
            return None
        low, high = seen.low, seen.high
        if ranges.method == "percentile":
            low, high = percentile_range(seen, ranges.percentile)
        cut = ranges.method == "mse"
        quantizer.set(hybrid_grid(seen, low, high, quantizer.bits, ranges.norm, cut=cut))
        return SiteRange(seen.low, seen.high, seen.total)


class MapRule:
    """Of logarithmic grids: least error of the attention's output, on a few rows of the map."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        """A search over all candidates at once."""
        return AttentionObserver(quantizer.site, quantizer.bits, ranges.norm)

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        """As of ``RangeRule``."""
        observer = quantizer.observer
        if not isinstance(observer, AttentionObserver) or not observer.rows:
            return None
        quantizer.set(Log2(quantizer.bits, *observer.best()))
        return SiteRange(0.0, observer.highest, observer.rows)


class ChannelRule:
    """Of grouped grids: each channel's smallest and largest value, then groups of channels alike."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        """Smallest and largest value of each channel."""
        return ChannelObserver(quantizer.site)

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        """As of ``RangeRule``."""
        observer = quantizer.observer
        if not isinstance(observer, ChannelObserver) or observer.low is None or observer.high is None:
            return None
        channel_ranges = channel_parameters(observer.low, observer.high, quantizer.bits)
        quantizer.set(grouped_grid(channel_ranges, groups, quantizer.bits))
        quantizer.channel_ranges = channel_ranges
        return SiteRange(float(observer.low.min()), float(observer.high.max()), observer.count)


_rules: dict[type[Grid], RangeRule] = {
    Affine: EvenRule(),
    Hybrid: HybridRule(),
    Log2: MapRule(),
    Grouped: ChannelRule(),
}


def register_rule(kind: type[Grid], rule: RangeRule) -> None:
    """Say how grids of a kind, and of kinds derived from it, are chosen."""
    _rules[kind] = rule


def rule_for(kind: type[Grid]) -> RangeRule:
    """The rule of a kind of grid, or of the nearest kind that it is derived from.

    Raises:
        InvariantError: there is none.
    """
    for base in kind.__mro__:
        if base in _rules:
            return _rules[base]
    raise InvariantError(f"the {kind.name} grid", "has no range rule; give it one with register_rule")


def _histogram_of(quantizer: Quantizer) -> Histogram | None:
    """What a quantizer's observer counted, if anything."""
    observer = quantizer.observer
    if isinstance(observer, HistogramObserver) and observer.histogram.total:
        return observer.histogram
    return None


def choose_range(histogram: Histogram, ranges: Ranges, bits: int) -> tuple[float, float]:
    """Low and high end by the recipe's rule."""
    if ranges.method == "percentile":
        return percentile_range(histogram, ranges.percentile)
    if ranges.method == "mse":
        return least_error_range(histogram, bits, ranges.norm)
    return minmax_range(histogram)
