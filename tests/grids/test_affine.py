"""The affine grid against ONNX's QuantizeLinear, written out in numpy, and the properties of any grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.grids.affine import (
    SMALLEST_SCALE,
    affine_codes,
    affine_parameters,
    affine_round_trip,
    affine_values,
)

BITS = range(2, 9)
reals = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False)


@st.composite
def grids(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Scale and zero point of some range, and bits."""
    bits = draw(st.integers(2, 8))
    low, high = sorted((draw(reals), draw(reals)))
    return (*affine_parameters(torch.tensor(low), torch.tensor(high), bits), bits)


values = st.lists(reals, min_size=1, max_size=30).map(lambda found: torch.tensor(found, dtype=torch.float32))


def onnx_codes(x: npt.NDArray[np.float32], scale: float, zero_point: int, bits: int) -> npt.NDArray[np.int64]:
    """``saturate(round_half_to_even(x / y_scale) + y_zero_point)``, as ONNX's operator text says."""
    steps = np.rint(x / np.float32(scale)).astype(np.float64)
    codes: npt.NDArray[np.int64] = np.clip(steps + zero_point, 0, 2**bits - 1).astype(np.int64)
    return codes


@given(grids(), values)
@settings(max_examples=600, deadline=None)
def test_codes_are_those_of_onnx(grid: tuple[Tensor, Tensor, int], x: Tensor) -> None:
    scale, zero_point, bits = grid
    codes = affine_codes(x, scale, zero_point, bits)
    expected = onnx_codes(x.numpy(), float(scale), int(zero_point), bits)
    assert np.array_equal(codes.numpy(), expected)
    back = (expected - int(zero_point)).astype(np.float32) * np.float32(scale)
    assert np.array_equal(affine_values(codes, scale, zero_point).numpy(), back)


@pytest.mark.parametrize("zero_point", [0, 1, 6, 7, 15])
def test_ties_go_to_the_even_step_before_the_zero_point_is_added(zero_point: int) -> None:
    """0.5, 1.5, 2.5 … steps: adding an odd zero point first would send every tie the other way."""
    scale = torch.tensor(0.25)
    x = (torch.arange(-20, 20) + 0.5) * scale
    even = torch.tensor([2 * round((float(step) + 0.5) / 2) for step in range(-20, 20)])
    codes = affine_codes(x, scale, torch.tensor(float(zero_point)), 4)
    assert codes.tolist() == (even + zero_point).clamp(0, 15).tolist()


@pytest.mark.parametrize("bits", BITS)
def test_every_code_survives_the_way_there_and_back(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    for _ in range(200):
        scale = torch.rand((), generator=generator) * 10 ** float(
            torch.randint(-6, 4, (), generator=generator)
        )
        zero_point = torch.randint(0, 2**bits, (), generator=generator).float()
        codes = torch.arange(2**bits, dtype=torch.float32)
        again = affine_codes(affine_values(codes, scale, zero_point), scale, zero_point, bits)
        assert torch.equal(again, codes)


@given(grids(), values)
@settings(max_examples=500, deadline=None)
def test_one_pass_equals_codes_and_values_and_leaves_its_input_alone(
    grid: tuple[Tensor, Tensor, int], x: Tensor
) -> None:
    scale, zero_point, bits = grid
    before = x.clone()
    moved = affine_round_trip(x, scale, zero_point, bits)
    assert torch.equal(moved, affine_values(affine_codes(x, scale, zero_point, bits), scale, zero_point))
    assert torch.equal(x, before)
    assert torch.equal(affine_round_trip(moved, scale, zero_point, bits), moved)


@given(grids(), values)
@settings(max_examples=500, deadline=None)
def test_the_grid_keeps_order(grid: tuple[Tensor, Tensor, int], x: Tensor) -> None:
    ordered = affine_round_trip(x.sort().values, *grid)
    assert bool((ordered.diff() >= 0).all())


@given(reals, reals, st.integers(2, 8), st.floats(0, 1))
@settings(max_examples=600, deadline=None)
def test_inside_the_range_nothing_moves_further_than_half_a_step(
    one: float, other: float, bits: int, share: float
) -> None:
    """Half a step inside what the grid covers; the ends of the range lie at most another half beyond it."""
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    scale, zero_point = affine_parameters(torch.tensor(low), torch.tensor(high), bits)
    step = float(scale)
    x = torch.tensor(low + share * (high - low), dtype=torch.float32)
    error = abs(float(affine_round_trip(x, scale, zero_point, bits)) - float(x))
    first, last = -float(zero_point) * step, (2**bits - 1 - float(zero_point)) * step
    slack = 4e-7 * max(abs(low), abs(high)) + 1e-30
    beyond = max(first - float(x), float(x) - last, 0.0)
    assert error <= max(step / 2, beyond) + slack
    assert beyond <= step / 2 + slack


@given(grids())
@settings(max_examples=300, deadline=None)
def test_zero_is_a_value_of_every_grid(grid: tuple[Tensor, Tensor, int]) -> None:
    assert float(affine_round_trip(torch.zeros(()), *grid)) == 0.0
    scale, zero_point, bits = grid
    assert float(scale) >= SMALLEST_SCALE * (1 - 1e-6)
    assert float(zero_point) in range(2**bits)


@given(reals, reals, st.integers(2, 8))
@settings(max_examples=400, deadline=None)
def test_parameters_follow_the_published_formula(one: float, other: float, bits: int) -> None:
    """m = min(low, 0), M = max(high, 0), s = (M - m) / (L - 1), z = clamp(-round(m / s), 0, L - 1)."""
    low, high = min(one, other), max(one, other)
    scale, zero_point = affine_parameters(torch.tensor(low), torch.tensor(high), bits)
    least, most, levels = min(low, 0.0), max(high, 0.0), 2**bits - 1
    assert float(scale) == np.float32(max((most - least) / levels, SMALLEST_SCALE))
    assert int(zero_point) == min(max(-round(least / float(scale)), 0), levels)


def test_channels_are_independent_and_broadcast() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, generator=generator) * torch.logspace(-3, 3, 5)[:, None]
    scale, zero_point = affine_parameters(x.amin(1), x.amax(1), 3)
    moved = affine_round_trip(x, scale[:, None], zero_point[:, None], 3)
    for row in range(5):
        assert torch.equal(moved[row], affine_round_trip(x[row], scale[row], zero_point[row], 3))
        assert moved[row].unique().numel() <= 8


@pytest.mark.parametrize("bits", BITS)
def test_constant_and_zero_tensors_give_finite_numbers(bits: int) -> None:
    for constant in (0.0, 3.5, -3.5, 1e-30, -1e-30, 1e30):
        value = torch.tensor(constant)
        scale, zero_point = affine_parameters(value, value, bits)
        moved = affine_round_trip(torch.full((4,), constant), scale, zero_point, bits)
        assert bool(torch.isfinite(moved).all())
        assert float((moved - constant).abs().max()) <= max(1e-6 * abs(constant), SMALLEST_SCALE)


def test_nan_stays_visible() -> None:
    scale, zero_point = affine_parameters(torch.tensor(-1.0), torch.tensor(1.0), 4)
    moved = affine_round_trip(torch.tensor([torch.nan, 0.5, torch.inf]), scale, zero_point, 4)
    assert torch.isnan(moved).tolist() == [True, False, False]
