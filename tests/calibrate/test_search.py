"""Least-error ranges against the published search, which looks at every value of the raw tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from saqsam.calibrate.histogram import Histogram
from saqsam.calibrate.search import least_error_range, minmax_range, range_error

NORM = 2.4
ALLOWED = 1.02
"""Largest error, in units of the published search's error, on the raw tensor."""
Floats = npt.NDArray[np.float64]


def error(x: Floats, low: float, high: float, bits: int) -> float:
    """``mean |x_hat - x|**2.4`` by the formulas of method.md section 2.1, in float64."""
    levels = 2**bits - 1
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / levels, 1e-8)
    zero = np.clip(-np.rint(low / scale), 0, levels)
    codes = np.clip(np.rint(x / scale) + zero, 0, levels)
    return float(np.mean(np.abs((codes - zero) * scale - x) ** NORM))


def published_range(x: Floats, bits: int) -> tuple[float, float]:
    """Nested bounded Brent search over width and shift; over the width alone for one-sided tensors."""
    least, most = float(x.min()), float(x.max())

    def brent(objective: object, low: float, high: float) -> float:
        return float(minimize_scalar(objective, bounds=(low, high), method="bounded").x)

    if least >= 0 or most <= 0:
        whole = max(abs(least), abs(most))
        sign = 1 if most > 0 else -1

        def one_sided(width: float) -> tuple[float, float]:
            return (0.0, width) if sign > 0 else (-width, 0.0)

        found = brent(lambda width: error(x, *one_sided(width), bits), min(0.1, 0.01 * whole), whole)
        return one_sided(found)

    def best_shift(width: float) -> float:
        return brent(lambda shift: error(x, -shift, width - shift, bits), 0.0, width)

    def outer(width: float) -> float:
        shift = best_shift(width)
        return error(x, -shift, width - shift, bits)

    width = brent(outer, min(0.1, 0.01 * (most - least)), most - least)
    shift = best_shift(width)
    return max(-shift, least), min(width - shift, most)


NAMES = [
    "vision_encoder.layers.1.attn.qkv:input",
    "vision_encoder.layers.1.attn:query",
    "vision_encoder.layers.1.attn:value",
    "vision_encoder.layers.1.mlp.lin1:input",
    "vision_encoder.layers.1.mlp.lin2:input",
    "vision_encoder.neck.conv2:input",
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image:key",
    "mask_decoder.transformer.layers.0.mlp.lin2:input",
    "key with outliers",
    "normal",
    "laplace",
    "heavy tails",
    "lognormal",
    "shifted",
    "all negative",
    "few far values",
    "two humps",
]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_no_worse_than_the_published_search(tensors: dict[str, Tensor], name: str, bits: int) -> None:
    x = tensors[name]
    raw = x[::3].double().numpy()
    found = least_error_range(Histogram.of(x[::3]), bits)
    assert error(raw, *found, bits) <= ALLOWED * error(raw, *published_range(raw, bits), bits)
    assert min(float(raw.min()), 0.0) * (1 + 1e-9) <= found[0] <= found[1]
    assert found[1] <= max(float(raw.max()), 0.0) * (1 + 1e-9)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", ["normal", "heavy tails", "lognormal", "few far values"])
def test_never_worse_than_min_max(tensors: dict[str, Tensor], name: str, bits: int) -> None:
    x = tensors[name]
    raw, histogram = x.double().numpy(), Histogram.of(x)
    found = error(raw, *least_error_range(histogram, bits), bits)
    assert found <= error(raw, *minmax_range(histogram), bits) * (1 + 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_a_range_is_that_of_the_raw_tensor(tensors: dict[str, Tensor], name: str) -> None:
    x = tensors[name]
    histogram = Histogram.of(x)
    low, high = 0.7 * float(x.min()), 0.8 * float(x.max())
    measured = range_error(histogram, low, high, 4)
    assert measured == pytest.approx(error(x.double().numpy(), low, high, 4), rel=0.02)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-20, 2.0**40, 2.0**90])
def test_units_do_not_matter(tensors: dict[str, Tensor], factor: float) -> None:
    x = tensors["heavy tails"]
    low, high = least_error_range(Histogram.of(x), 4)
    scaled = least_error_range(Histogram.of(x * factor), 4)
    assert scaled[0] == pytest.approx(low * factor, rel=1e-3)
    assert scaled[1] == pytest.approx(high * factor, rel=1e-3)


def test_a_tensor_on_a_grid_keeps_its_whole_range() -> None:
    """Sixteen evenly spaced values, zero among them: only the full range has no error at all."""
    x = (torch.arange(16.0) - 5).repeat(100) * 0.25
    assert least_error_range(Histogram.of(x), 4) == pytest.approx((-1.25, 2.5), rel=1e-6)


def test_the_same_histogram_gives_the_same_range(tensors: dict[str, Tensor]) -> None:
    histogram = Histogram.of(tensors["laplace"])
    assert least_error_range(histogram, 3) == least_error_range(histogram, 3)
