"""Weight ranges against the published grid of 100 widths times all zero points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saqsam.calibrate.weights import weight_parameters
from saqsam.errors import NumericalError
from saqsam.grids.affine import affine_parameters, affine_round_trip
from saqsam.shipped.embedded import embedded_sam

NORM = 2.4
WHOLE, SINGLE = 1.025, 1.15
"""Largest error in units of the published grid's: of a weight as a whole, and of its worst channel."""


def published(rows: Tensor, bits: int) -> Tensor:
    """Least ``mean |x_hat - x|**2.4`` of every row over the 2-D grid of method.md section 2.3."""
    low, high = rows.amin(1).clamp(max=0).double(), rows.amax(1).clamp(min=0).double()
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    x = rows.double()
    for width in range(1, 101):
        step = ((high - low) * width / 100 / (2**bits - 1)).clamp(min=1e-8)[:, None]
        steps = torch.round(x / step)
        for zero_point in range(2**bits):
            moved = steps.clamp(-zero_point, 2**bits - 1 - zero_point) * step
            best = torch.minimum(best, (moved - x).abs().pow(NORM).mean(1))
    return best


def made_up(shape: str) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    normal = torch.randn(24, 96, generator=draw)
    return {
        "normal": normal,
        "wide": torch.randn(6, 2048, generator=draw),
        "heavy tails": normal / torch.rand(24, 96, generator=draw).sqrt(),
        "one outlier a row": torch.cat([normal, torch.full((24, 1), 12.0)], dim=1),
        "skewed": (0.8 * normal).exp() - 1,
        "one-sided": normal.abs(),
        "negative": -normal.abs() - 0.5,
        "scaled rows": normal * torch.logspace(-4, 4, 24)[:, None],
        "convolution": torch.randn(8, 12, 3, 3, generator=draw),
        "nine values": torch.randn(24, 9, generator=draw),
    }[shape]


SHAPES = (
    *("normal", "wide", "heavy tails", "one outlier a row", "skewed"),
    *("one-sided", "negative", "scaled rows", "convolution", "nine values"),
)
LAYERS = (
    "vision_encoder.layers.0.attn.qkv",
    "vision_encoder.layers.4.mlp.lin2",
    "vision_encoder.neck.conv1",
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image.k_proj",
    "mask_decoder.transformer.final_attn_token_to_image.out_proj",
)


def ratios(weight: Tensor, bits: int) -> tuple[float, float]:
    """Our error in units of the published one: of all rows together, and of the worst row."""
    rows = weight.reshape(len(weight), -1)
    scale, zero_point = weight_parameters(weight, bits, "mse", norm=NORM)
    moved = affine_round_trip(rows, scale[:, None], zero_point[:, None], bits)
    ours = (moved - rows).double().abs().pow(NORM).mean(1)
    theirs = published(rows, bits)
    unit = rows.abs().amax(1).double().pow(NORM).clamp(min=1e-30)  # rows of any scale count alike
    single = (ours + 1e-7 * unit) / (theirs + 1e-7 * unit)
    return float((ours / unit).sum() / (theirs / unit).sum()), float(single.max())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_made_up_weights_err_no_more_than_published(shape: str, bits: int) -> None:
    whole, single = ratios(made_up(shape), bits)
    assert whole <= WHOLE
    assert single <= SINGLE


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_trained_weights_err_no_more_than_published(layer: str, bits: int) -> None:
    weight = embedded_sam("nano").get_submodule(layer).weight[:16]
    whole, single = ratios(weight, bits)
    assert whole <= WHOLE
    assert single <= SINGLE


@pytest.mark.parametrize("bits", [6, 8])
def test_many_bits_err_no_more_than_published(bits: int) -> None:
    whole, _ = ratios(made_up("normal")[:4], bits)
    assert whole <= WHOLE


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_search_looks_far_less_often(bits: int) -> None:
    """The published search raises the error to a power 100 times for each zero point."""
    with Powers() as powers:
        weight_parameters(made_up("normal"), bits, "mse")
    assert 0 < powers.count <= 40
    assert 100 * 2**bits >= 10 * powers.count


class Powers(TorchFunctionMode):
    """Counts how often a tensor is raised to a power."""

    count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func in (torch.pow, Tensor.pow, Tensor.pow_)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", SHAPES)
def test_never_worse_than_min_max(shape: str, bits: int) -> None:
    rows = made_up(shape).flatten(1)
    errors = []
    for method in ("mse", "minmax"):
        scale, zero_point = weight_parameters(rows, bits, method)
        moved = affine_round_trip(rows, scale[:, None], zero_point[:, None], bits)
        errors.append((moved - rows).abs().pow(NORM).sum(1))
    assert bool((errors[0] <= errors[1] * (1 + 1e-5)).all())


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_rows_do_not_depend_on_their_neighbours(method: str) -> None:
    weight = made_up("convolution")
    scale, zero_point = weight_parameters(weight, 4, method)
    alone = weight_parameters(weight[3:4], 4, method)
    assert torch.equal(scale[3:4], alone[0])
    assert torch.equal(zero_point[3:4], alone[1])


def test_a_weight_of_millions_is_worked_through_in_parts() -> None:
    rows = torch.randn(3, 1 << 21, generator=torch.Generator().manual_seed(0))
    found = weight_parameters(rows, 4, "minmax")
    expected = affine_parameters(rows.amin(1), rows.amax(1), 4)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_min_max_and_percentile_follow_their_formulas() -> None:
    rows = made_up("heavy tails")
    scale, zero_point = weight_parameters(rows, 4, "minmax")
    expected = affine_parameters(rows.amin(1), rows.amax(1), 4)
    assert torch.equal(scale, expected[0])
    assert torch.equal(zero_point, expected[1])
    scale, _ = weight_parameters(rows, 4, "percentile", fraction=0.95)
    ends = np.quantile(rows.double().numpy(), [0.05, 0.95], axis=1)
    assert np.allclose(scale.numpy(), (ends[1] - ends[0]) / 15, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_names_the_weight(bad: float) -> None:
    weight = made_up("normal")
    weight[3, 5] = bad
    with pytest.raises(NumericalError, match="lin1:weight: NaN or infinity"):
        weight_parameters(weight, 4, "mse", site="lin1:weight")
