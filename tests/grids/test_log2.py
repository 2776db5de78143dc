"""The logarithmic grid against its formula in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.grids.log2 import GRANULARITIES, log2_codes, log2_levels, log2_round_trip, log2_values

ALL = [(bits, tau) for bits in range(2, 9) for tau in GRANULARITIES]
SCALES = (1.0, 0.75, 2.0**-0.25, 0.01)
probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30).map(
    lambda found: torch.tensor(found, dtype=torch.float32)
)
grids = st.tuples(
    st.sampled_from(SCALES).map(torch.tensor), st.sampled_from(GRANULARITIES), st.integers(2, 8)
)


@pytest.mark.parametrize(("bits", "tau"), ALL)
@pytest.mark.parametrize("scale", SCALES)
def test_a_grid_has_at_most_two_to_the_bits_values_and_zero_is_one(bits: int, tau: int, scale: float) -> None:
    """The published code has one value more than its bits can number."""
    x = torch.cat([torch.zeros(1), torch.logspace(-40, 0, 20000, dtype=torch.float64).float()])
    found = log2_round_trip(x, torch.tensor(scale), tau, bits)
    assert found.unique().numel() <= 2**bits
    assert float(found[0]) == 0.0
    assert float(found.max()) == pytest.approx(scale, rel=1e-6)
    levels = log2_levels(torch.tensor(scale), tau, bits)
    assert levels.shape == (2**bits,)
    assert bool(torch.isin(found, levels).all())
    for n, level in enumerate(levels[:-1].tolist()):
        assert level == pytest.approx(scale * 2 ** (-n / tau), rel=1e-6, abs=1e-38)


@given(grids, probabilities)
@settings(max_examples=600, deadline=None)
def test_codes_are_nearest_in_the_exponent(grid: tuple[Tensor, int, int], x: Tensor) -> None:
    scale, tau, bits = grid
    last = 2**bits - 1
    for value, code in zip(x.tolist(), log2_codes(x, scale, tau, bits).tolist(), strict=True):
        if value == 0.0:
            assert code == last
            continue
        exponent = -tau * math.log2(value / float(scale))
        nearest = min(max(exponent, 0.0), float(last))
        # Within 1e-3 of a tie float32 may take either neighbour.
        assert abs(code - nearest) <= 0.501


@given(grids, probabilities)
@settings(max_examples=500, deadline=None)
def test_moving_twice_is_moving_once_and_order_is_kept(grid: tuple[Tensor, int, int], x: Tensor) -> None:
    moved = log2_round_trip(x, *grid)
    assert torch.equal(log2_round_trip(moved, *grid), moved)
    assert torch.equal(log2_values(log2_codes(x, *grid), *grid), moved)
    ordered = log2_round_trip(x.sort().values, *grid)
    assert bool((ordered.diff() >= 0).all())


@pytest.mark.parametrize(("bits", "tau"), ALL)
def test_every_code_survives_the_way_there_and_back(bits: int, tau: int) -> None:
    scale = torch.tensor(0.9)
    levels = log2_levels(scale, tau, bits)
    usable = levels > 1e-30
    codes = log2_codes(levels, scale, tau, bits)
    assert torch.equal(codes[usable], torch.arange(2**bits, dtype=torch.float32)[usable])
    assert float(codes[-1]) == 2**bits - 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nan_stays_visible(bits: int) -> None:
    moved = log2_round_trip(torch.tensor([torch.nan, 0.5, 0.0]), torch.tensor(1.0), 2, bits)
    assert torch.isnan(moved).tolist() == [True, False, False]


def test_shape_and_dtype_are_kept() -> None:
    x = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        moved = log2_round_trip(x.to(dtype), torch.tensor(1.0), 2, 4)
        assert moved.shape == x.shape
        assert moved.dtype == dtype
    assert torch.equal(x, before)
