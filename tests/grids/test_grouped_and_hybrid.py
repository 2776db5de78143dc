"""Grids of groups of channels, and hybrid grids: nearest values, zero among them, never one too many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.grids.affine import affine_parameters, affine_round_trip
from saqsam.grids.grouped import Grouped, group_channels, group_means
from saqsam.grids.hybrid import (
    hybrid_codes,
    hybrid_levels,
    hybrid_round_trip,
    hybrid_values,
    log_levels_for,
    separable,
)


@st.composite
def hybrids(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Levels of a hybrid grid, and its bits."""
    bits = draw(st.integers(2, 8))
    log_levels = log_levels_for(draw(st.sampled_from([0.1, 0.3, 0.5])), bits)
    knee = torch.tensor(draw(st.floats(0.01, 10.0)))
    step = knee * draw(st.floats(0.05, 2.0))
    zero_point = draw(st.integers(0, min(1, log_levels)))
    return hybrid_levels(knee, step, zero_point, log_levels, bits), bits


@given(hybrids(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_hybrid_values_are_the_nearest_there_are(hybrid: tuple[Tensor, int], seed: int) -> None:
    levels, bits = hybrid
    assert len(levels) == 2**bits
    assert bool((levels == 0).any())
    assert bool((levels.diff() > 0).all())
    x = 20 * torch.randn(200, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)
    found = hybrid_round_trip(x, levels)
    nearest = (x[:, None] - levels).abs().min(1).values
    assert torch.allclose((x - found).abs(), nearest, rtol=1e-5, atol=1e-6)
    assert set(found.tolist()) <= set(levels.tolist())
    if separable(levels):
        assert torch.equal(hybrid_round_trip(found, levels), found)
        codes = hybrid_codes(levels, levels)
        assert torch.equal(hybrid_values(codes, levels), levels)
    order = x.sort().indices
    assert bool((found[order].diff() >= 0).all())


def test_hybrid_levels_double_up_to_the_knee_and_are_even_above() -> None:
    levels = hybrid_levels(torch.tensor(2.0), torch.tensor(0.5), 0, 3, 3)
    assert levels.tolist() == [0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0]
    moved = hybrid_levels(torch.tensor(2.0), torch.tensor(0.5), 1, 3, 3)
    assert moved.tolist() == [-0.5, 0.0, 0.5, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_large_values_do_not_fall_onto_the_knee() -> None:
    levels = hybrid_levels(torch.tensor(1.0), torch.tensor(1.0), 0, 4, 4)
    assert hybrid_round_trip(torch.tensor([100.0]), levels).item() == levels[-1].item() == 12.0


@given(st.integers(0, 2**31), st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_each_channel_is_rounded_on_the_grid_of_its_group(seed: int, bits: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    groups = torch.tensor([0, 1, 0, 2, 1])
    scale, zero_point = affine_parameters(
        -torch.rand(3, generator=draw), torch.rand(3, generator=draw) + 0.1, bits
    )
    x = torch.randn(4, 7, 5, generator=draw)
    grid = Grouped(bits, scale, zero_point, groups)
    found = grid.round_trip(x)
    for channel, group in enumerate(groups.tolist()):
        alone = affine_round_trip(x[..., channel], scale[group], zero_point[group], bits)
        assert torch.equal(found[..., channel], alone)
        assert found[..., channel].unique().numel() <= 2**bits
    assert torch.equal(grid.values(grid.codes(x)), found)


def test_groups_are_those_one_would_draw_by_hand() -> None:
    scale = torch.tensor([0.010, 0.011, 0.050, 0.051, 0.010, 0.050])
    zero_point = torch.tensor([3.0, 3.0, 3.0, 3.0, 12.0, 12.0])
    groups = group_channels(scale, zero_point, 4)
    assert groups.tolist() == [0, 0, 1, 1, 2, 3]
    assert torch.equal(groups, group_channels(scale, zero_point, 4))
    assert group_means(scale, groups).tolist() == pytest.approx([0.0105, 0.0505, 0.010, 0.050])


def test_there_are_no_more_groups_than_different_channels() -> None:
    groups = group_channels(torch.tensor([0.1, 0.1, 0.2]), torch.tensor([1.0, 1.0, 1.0]), 8)
    assert groups.tolist() == [0, 0, 1]
