"""Scale and granularity of attention maps against the published search (AGQ) on whole maps."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from saqsam.calibrate.attention_maps import AttentionObserver
from saqsam.errors import InvariantError
from saqsam.grids.log2 import GRANULARITIES, log2_levels

NORM = 2.4
ALLOWED = 1.15
"""Largest error in units of the published search's, on the rows that the observer looked at: eight, so that
one probability can decide."""
ALLOWED_WHOLE = 1.35
"""The same on all rows of all maps, of which the observer saw a sample."""
Calls = list[tuple[Tensor, Tensor]]
SITES = (
    "vision_encoder.layers.1.attn:attention",
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image:attention",
    "mask_decoder.transformer.layers.0.self_attn:attention",
)


def nearest(x: Tensor, scale: float, tau: int, bits: int) -> Tensor:
    """The grid by its definition: of all levels the one nearest in the exponent, zero for the last code."""
    codes = torch.round(-tau * torch.log2(x.double().clamp(min=1e-300) / scale)).clamp(min=0)
    last = 2**bits - 1
    return torch.where(codes >= last, 0.0, scale * torch.exp2(-codes / tau))


def error(calls: Calls, scale: float, tau: int, bits: int) -> float:
    """Sum over calls of ``mean |x_hat V - x V|**2.4``."""
    total = 0.0
    for maps, values in calls:
        difference = (nearest(maps, scale, tau, bits) - maps.double()) @ values.double()
        total += float(difference.abs().pow(NORM).mean())
    return total


def published(calls: Calls, bits: int) -> float:
    """The least error that one bounded scalar search for each granularity finds."""
    highest = max(float(maps.max()) for maps, _ in calls)
    bounds = (min(0.1, 0.01 * highest), highest)
    return min(
        float(
            minimize_scalar(
                lambda s, tau=tau: error(calls, s, tau, bits), bounds=bounds, method="bounded"
            ).fun
        )
        for tau in GRANULARITIES
    )


def made_up(kind: str) -> Calls:
    """Maps of 40 queries over 60 (or 4096) keys with values."""
    draw = torch.Generator().manual_seed(2)
    keys = 4096 if kind == "nearly uniform" else 60
    sharpness = {"nearly uniform": 0.2, "soft": 1.0, "sharp": 6.0, "one key": 40.0}[kind]
    maps = torch.softmax(torch.randn(2, 40, keys, generator=draw) * sharpness, -1)
    return [(maps, torch.randn(2, keys, 16, generator=draw))]


def observe(calls: Calls, bits: int) -> AttentionObserver:
    observer = AttentionObserver("site", bits, NORM)
    for maps, values in calls:
        observer.update(maps, values)
    return observer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["nearly uniform", "soft", "sharp", "one key"])
def test_made_up_maps_err_no_more_than_published(kind: str, bits: int) -> None:
    calls = [(maps[:, :4], values) for maps, values in made_up(kind)]  # four queries: all are looked at
    scale, tau = observe(calls, bits).best()
    floor = 1e-9 * error(calls, 1e-9, 1, bits)  # of a grid that keeps nothing
    assert error(calls, float(scale), tau, bits) <= ALLOWED * published(calls, bits) + floor


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("site", SITES)
def test_trained_maps_err_no_more_than_published(
    seen: dict[str, list[tuple[Tensor, Tensor]]], site: str, bits: int
) -> None:
    calls = [(maps.flatten(0, -3), values.flatten(0, -3)) for maps, values in seen[site]]
    scale, tau = observe(calls, bits).best()
    assert error(calls, float(scale), tau, bits) <= ALLOWED_WHOLE * published(calls, bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["soft", "sharp", "one key"])
def test_the_error_of_every_candidate_is_that_of_its_grid(kind: str, bits: int) -> None:
    """Sorting and summing once must give what quantizing the map with each candidate gives."""
    calls = [(maps[:1, :3], values[:1]) for maps, values in made_up(kind)]
    found = observe(calls, bits).errors
    assert found.shape == (3, 13 * 32)
    for row, tau in enumerate(GRANULARITIES):
        for place in (0, 1, 7, 8, 9, 32, 100, 7 * 32 - 1):
            expected = error(calls, 2.0 ** (-place / 32), tau, bits)
            assert float(found[row, place]) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    # The largest of 60 probabilities is at least 1/60: scales below 1/128 are not even tried.
    assert bool(found[:, 7 * 32 :].isinf().all())


def test_the_order_of_images_does_not_matter(seen: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
    calls = seen[SITES[1]]
    forward, backward = observe(calls, 4), observe(calls[::-1], 4)
    assert torch.allclose(forward.errors, backward.errors, rtol=1e-12)
    assert forward.best()[1] == backward.best()[1]
    assert torch.equal(forward.best()[0], backward.best()[0])
    assert forward.rows == backward.rows


def test_a_map_on_a_grid_is_recognised() -> None:
    """Only half an octave's steps and a largest value of 2**-0.5 reproduce these maps."""
    draw = torch.Generator().manual_seed(0)
    levels = log2_levels(torch.tensor(2.0**-0.5), 2, 4)
    maps = levels[torch.randint(0, 16, (3, 4, 200), generator=draw)]
    scale, tau = observe([(maps, torch.randn(3, 200, 8, generator=draw))], 4).best()
    assert tau == 2
    assert float(scale) == pytest.approx(2.0**-0.5, rel=1e-6)


def test_maps_without_values_are_a_fault_of_the_program() -> None:
    with pytest.raises(InvariantError, match="site: the attention map was observed without its values"):
        AttentionObserver("site", 4, NORM).update(torch.ones(1, 1, 1), None)
