"""Learned and closed-form rounding of single weights: always on the grid, never worse than promised."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.calibrate.weights import weight_parameters
from saqsam.grids.affine import Affine
from saqsam.modules.quantizer import Quantizer
from saqsam.reconstruct.gptq import Moments, closed_form, corrected_bias
from saqsam.reconstruct.rounding import LearnedRounding


def weight_with_grid(seed: int, bits: int, method: str = "minmax") -> tuple[Tensor, Quantizer]:
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(seed))
    quantizer = Quantizer("layer:weight", bits, channels=6)
    quantizer.set(Affine(bits, *weight_parameters(weight, bits, method)))
    return weight, quantizer


@given(seed=st.integers(0, 99), bits=st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_learning_begins_at_the_float_weight_and_ends_on_the_grid(seed: int, bits: int) -> None:
    weight, quantizer = weight_with_grid(seed, bits)
    rounding = LearnedRounding(weight, quantizer)
    scale = quantizer.affine.scale[:, None]
    origin, steps = quantizer.affine.zero_point[:, None], weight / scale
    inside = (steps >= -origin) & (steps <= 2**bits - 1 - origin)
    torch.testing.assert_close(rounding.soft()[inside], weight[inside], rtol=1e-4, atol=1e-5)
    # Undisturbed, every element takes the nearer value: nearest rounding.
    assert torch.equal(rounding.harden(), quantizer(weight))
    with torch.no_grad():
        rounding.alpha.add_(torch.randn_like(weight) * 4)
    hard = rounding.harden()
    assert torch.equal(quantizer(hard), hard)
    assert bool(((hard - weight).abs()[inside] <= scale.expand_as(weight)[inside] * 1.001).all())


def test_the_rounding_term_vanishes_once_all_have_decided() -> None:
    weight, quantizer = weight_with_grid(0, 4)
    rounding = LearnedRounding(weight, quantizer)
    up = ((1.2 / (1 + torch.exp(-rounding.alpha)) - 0.1).clamp(0, 1)).detach()
    expected = sum(1 - abs(2 * h - 1) ** 5.0 for h in up.flatten().tolist())
    assert rounding.undecided(5.0).item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        rounding.alpha.copy_(torch.where(rounding.alpha >= 0, 9.0, -9.0))
    assert rounding.undecided(5.0).item() == 0.0
    assert torch.equal(rounding.soft(), rounding.harden())


def correlated(seed: int, tokens: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 24, generator=generator) @ torch.randn(24, 24, generator=generator)


def rounded(weight: Tensor, quantizer: Quantizer, seen: Tensor, wanted: Tensor, compensate: bool) -> Tensor:
    moments = Moments.empty(24, weight.device)
    for part, original in zip(seen.split(150), wanted.split(150), strict=True):
        moments.add(part, original)
    return closed_form(weight, moments, quantizer, damping=0.01, compensate=compensate)


@given(seed=st.integers(0, 99), bits=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_closed_form_halves_the_output_error_of_nearest_rounding(seed: int, bits: int) -> None:
    weight, quantizer = weight_with_grid(seed, bits, "minmax")
    x = correlated(seed)
    found = rounded(weight, quantizer, x, x, compensate=False)
    assert torch.equal(quantizer(found), found)
    error = (x @ (found - weight).T).square().mean()
    nearest = (x @ (quantizer(weight) - weight).T).square().mean()
    assert error < 0.8 * nearest


def test_closed_form_is_nearest_rounding_where_inputs_are_uncorrelated() -> None:
    weight, quantizer = weight_with_grid(1, 4)
    moments = Moments.empty(24, weight.device)
    moments.add(torch.eye(24), torch.eye(24))
    found = closed_form(weight, moments, quantizer, damping=0.0, compensate=True)
    assert torch.equal(found, quantizer(weight))


def test_compensation_makes_up_for_the_error_of_the_input() -> None:
    weight, quantizer = weight_with_grid(2, 6)
    x = correlated(2)
    wrong = x * 0.8 + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    errors = [
        (wrong @ rounded(weight, quantizer, wrong, x, compensate).T - x @ weight.T).square().mean()
        for compensate in (True, False)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_bias_correction_keeps_the_mean_output() -> None:
    weight, quantizer = weight_with_grid(3, 2)
    x = correlated(3) + 2.0
    wrong = x + 0.3
    moments = Moments.empty(24, weight.device)
    moments.add(wrong, x)
    hard, bias = quantizer(weight), torch.arange(6.0)
    corrected = corrected_bias(bias, weight, hard, moments)
    torch.testing.assert_close((wrong @ hard.T).mean(0) + corrected, (x @ weight.T).mean(0) + bias)


def test_channels_that_are_never_used_keep_their_nearest_value() -> None:
    weight, quantizer = weight_with_grid(4, 4)
    x = correlated(4)
    x[:, 7] = 0.0
    found = rounded(weight, quantizer, x, x, compensate=True)
    assert torch.equal(found[:, 7], quantizer(weight)[:, 7])
