"""Histograms: merging in any order gives the histogram of everything at once."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.calibrate.histogram import MAX_BINS, Histogram, exponent_for, merge_all
from saqsam.calibrate.search import percentile_range
from saqsam.errors import NumericalError

numbers = st.one_of(
    st.floats(-(2.0**30), 2.0**30, width=32, allow_subnormal=False),
    st.floats(-1, 1, width=32, allow_subnormal=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 170.0]),
)
tensors = st.lists(numbers, max_size=25).map(lambda found: torch.tensor(found, dtype=torch.float32))


def assert_same(one: Histogram, other: Histogram) -> None:
    assert (one.low, one.high, one.first) == (other.low, other.high, other.first)
    assert np.array_equal(one.counts, other.counts)


@given(tensors, tensors)
@settings(max_examples=500, deadline=None)
def test_merging_is_commutative_and_equals_one_pass(one: Tensor, other: Tensor) -> None:
    first, second = Histogram.of(one), Histogram.of(other)
    assert_same(first.merge(second), second.merge(first))
    assert_same(first.merge(second), Histogram.of(torch.cat([one, other])))


@given(tensors, tensors, tensors)
@settings(max_examples=500, deadline=None)
def test_merging_is_associative(a: Tensor, b: Tensor, c: Tensor) -> None:
    x, y, z = map(Histogram.of, (a, b, c))
    assert_same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert_same(x.merge(y).merge(z), Histogram.of(torch.cat([a, b, c])))


@given(tensors)
@settings(max_examples=400, deadline=None)
def test_every_value_lies_in_the_bin_that_counts_it(x: Tensor) -> None:
    found = Histogram.of(x)
    assert found.total == x.numel()
    if not x.numel():
        return
    assert found.counts.size <= MAX_BINS
    assert (found.low, found.high) == (float(x.min()), float(x.max()))
    # Plain Python: float32 numbers divided by a power of two are exact in float64.
    expected: dict[int, int] = {}
    for value in x.tolist():
        index = math.floor(math.ldexp(value, -found.exponent))
        expected[index] = expected.get(index, 0) + 1
    counted = {found.first + place: int(n) for place, n in enumerate(found.counts) if n}
    assert counted == expected


@given(tensors.filter(lambda x: x.numel() > 0))
@settings(max_examples=300, deadline=None)
def test_merging_neither_changes_its_operands_nor_ever_loses_a_count(x: Tensor) -> None:
    first, second = Histogram.of(x), Histogram.of(x * 1000 + 5)
    before = (first.counts.copy(), second.counts.copy())
    merged = first.merge(second)
    assert merged.total == 2 * x.numel()
    assert np.array_equal(first.counts, before[0])
    assert np.array_equal(second.counts, before[1])
    assert_same(first.merge(Histogram()), first)
    assert_same(Histogram().merge(first), first)


def images(count: int) -> list[Tensor]:
    """Heavy-tailed activations of very different reach."""
    draw = torch.Generator().manual_seed(3)
    tails = [torch.randn(4000, generator=draw) / torch.rand(4000, generator=draw) for _ in range(count)]
    return [10.0 ** (place % 4 - 2) * tail for place, tail in enumerate(tails)]


def test_many_images_in_any_order_count_each_value_once() -> None:
    parts = images(12)
    forward = merge_all(map(Histogram.of, parts))
    backward = merge_all(map(Histogram.of, reversed(parts)))
    tree = reduce(Histogram.merge, [merge_all(map(Histogram.of, parts[i::3])) for i in range(3)])
    whole = Histogram.of(torch.cat(parts))
    for other in (backward, tree, whole):
        assert_same(forward, other)
    assert forward.total == sum(part.numel() for part in parts)


@pytest.mark.parametrize("shape", ["normal", "tails", "relu", "shifted", "far"])
@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.01, 0.15, 0.5, 0.85, 0.99, 0.9999, 1.0])
def test_quantiles_are_those_of_numpy_to_a_bin(shape: str, fraction: float) -> None:
    """Between the two order statistics at the rank (numpy interpolates there too), plus one bin width."""
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(20_001, generator=draw)
    x = {
        "normal": base,
        "tails": base / torch.rand(20_001, generator=draw),
        "relu": base.clamp(min=0),
        "shifted": base + 8,
        "far": base * 1e-3 + 1000,
    }[shape]
    found = Histogram.of(x)
    width = math.ldexp(1.0, found.exponent)
    ordered = np.sort(x.numpy().astype(np.float64))
    rank = fraction * (ordered.size - 1)
    below, above = ordered[max(0, math.floor(rank) - 1)], ordered[min(ordered.size - 1, math.ceil(rank) + 1)]
    assert below - width <= found.quantile(fraction) <= above + width
    if shape == "normal" and 0.01 <= fraction <= 0.99:
        assert found.quantile(fraction) == pytest.approx(np.quantile(ordered, fraction), abs=2 * width)


def test_percentile_range_takes_both_tails() -> None:
    x = torch.linspace(-10, 30, 40_001)
    low, high = percentile_range(Histogram.of(x), 0.99)
    assert low == pytest.approx(-9.6, abs=0.02)
    assert high == pytest.approx(29.6, abs=0.02)
    assert percentile_range(Histogram.of(x), 1.0) == (-10.0, 30.0)


def test_bins_are_fine_even_beside_an_outlier() -> None:
    x = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([170.0])])
    found = Histogram.of(x)
    assert MAX_BINS / 2 <= found.counts.size <= MAX_BINS
    centres, counts = found.bins()
    assert counts.sum() == x.numel()
    assert centres.min() >= found.low
    assert centres.max() <= found.high
    mean = float((centres * counts).sum() / counts.sum())
    assert mean == pytest.approx(float(x.mean()), abs=math.ldexp(1.0, found.exponent))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (5.0, 5.0), (-1e-38, 1e-38), (-1e30, 1e30), (7, 7.5)])
def test_any_range_has_an_exponent_that_covers_it(low: float, high: float) -> None:
    exponent = exponent_for(low, high)
    bins = math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) + 1
    assert 1 <= bins <= MAX_BINS


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_names_the_site(bad: float) -> None:
    with pytest.raises(NumericalError, match="some site: NaN or infinity"):
        Histogram.of(torch.tensor([1.0, bad, 2.0]), "some site")
