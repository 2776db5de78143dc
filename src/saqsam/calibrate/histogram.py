"""A histogram that can be merged in any order and still be the same histogram.

Bins are the intervals ``[i, i+1) * 2**exponent``. The exponent depends on nothing but the smallest
and largest value seen, so merging is associative and commutative, and the histogram of many images
equals the histogram of their concatenation, count for count. Widening the range only ever joins
neighbouring bins, which moves no count across an edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saqsam.errors import NumericalError

MAX_BINS = 4096
"""At most this many bins; never fewer than half as many, unless all values are nearly equal."""
_LOWEST_EXPONENT = -100
_MANTISSA = 22
"""Bin edges stay exact in float32: an index never needs more bits than a float's mantissa has."""


def exponent_for(low: float, high: float) -> int:
    """Smallest exponent whose bins cover ``[low, high]`` with at most ``MAX_BINS`` of them."""
    span, largest = high - low, max(abs(low), abs(high))
    if largest == 0.0:
        return _LOWEST_EXPONENT
    exponent = max(
        _LOWEST_EXPONENT,
        math.frexp(span / MAX_BINS)[1] - 2 if span > 0 else _LOWEST_EXPONENT,
        math.frexp(largest)[1] - _MANTISSA,
    )
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= MAX_BINS:
        exponent += 1
    return exponent


@dataclass(frozen=True)
class Histogram:
    """Counts of the values of one or more tensors.

    Attributes:
        low: smallest value seen; ``inf`` while empty.
        high: largest value seen; ``-inf`` while empty.
        first: index of the first bin.
        counts: int64, one count per bin from ``first`` on.
    """

    low: float = math.inf
    high: float = -math.inf
    first: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, x: Tensor, site: str = "tensor", *, every: int = 1) -> Histogram:
        """Histogram of the values of ``x`` (any shape, float).

        Args:
            x: whose smallest and largest value are taken exactly.
            site: name used in messages.
            every: count only every so-manieth value, in memory order.

        Raises:
            NumericalError: ``x`` holds NaN or infinity; ``site`` says where.
        """
        if x.numel() == 0:
            return cls()
        x = _in_memory_order(x.detach())
        low_tensor, high_tensor = x.aminmax()
        low, high = float(low_tensor), float(high_tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NumericalError(site, "NaN or infinity in its values; check the weights and the images")
        exponent = exponent_for(low, high)
        first = math.floor(math.ldexp(low, -exponent))
        scaled = torch.floor(x.flatten()[::every].float() * math.ldexp(1.0, -exponent))
        index = scaled.to(torch.int32).sub_(first).cpu().numpy()
        return cls(low, high, first, np.bincount(index).astype(np.int64))

    @property
    def exponent(self) -> int:
        """Bins are ``2**exponent`` wide."""
        return exponent_for(self.low, self.high)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values together; neither operand changes."""
        if self.total == 0 or other.total == 0:
            return other if self.total == 0 else self
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = exponent_for(low, high)
        first = math.floor(math.ldexp(low, -exponent))
        length = math.floor(math.ldexp(high, -exponent)) - first + 1
        counts = np.zeros(length, dtype=np.int64)
        for part in (self, other):
            joined = (np.arange(part.counts.size) + part.first) >> (exponent - part.exponent)
            np.add.at(counts, joined - first, part.counts)
        return Histogram(low, high, first, counts)

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres and counts of the occupied bins, the outermost centres pulled inside the range."""
        occupied = np.flatnonzero(self.counts)
        centres = np.ldexp(occupied + self.first + 0.5, self.exponent)
        return np.clip(centres, self.low, self.high), self.counts[occupied].astype(np.float64)

    def quantile(self, fraction: float) -> float:
        """The value below which ``fraction`` of the values lie, exact to one bin width."""
        running = np.cumsum(self.counts)
        rank = fraction * running[-1]
        bin_index = int(np.searchsorted(running, rank, side="left"))
        before = running[bin_index - 1] if bin_index else 0
        inside = (rank - before) / max(1, self.counts[bin_index])
        value = math.ldexp(bin_index + self.first + min(1.0, max(0.0, float(inside))), self.exponent)
        return min(max(value, self.low), self.high)


def _in_memory_order(x: Tensor) -> Tensor:
    """The same values with the dimensions of longest stride first: heads set apart, for one, are read without
    jumps or a copy."""
    strides = list(x.stride())
    order = sorted(range(x.ndim), key=lambda dimension: -strides[dimension])
    ordered: Tensor = x.permute(order)
    return ordered


def merge_all(histograms: Iterable[Histogram]) -> Histogram:
    """Merge any number of histograms; the order does not matter."""
    merged = Histogram()
    for histogram in histograms:
        merged = merged.merge(histogram)
    return merged


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
