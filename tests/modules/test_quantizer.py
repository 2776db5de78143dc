"""A quantizer's life: observe, fake, frozen, and never back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saqsam.calibrate.choose_range import choose_activation_range, choose_weight_range
from saqsam.calibrate.observers import observer_for
from saqsam.errors import InvariantError, NumericalError
from saqsam.grids.affine import Affine, affine_parameters, affine_round_trip
from saqsam.grids.log2 import Log2, log2_round_trip
from saqsam.modules.quantizer import Quantizer, Stage
from saqsam.recipe import Ranges

SITE = "mask_decoder.transformer.layers.0.self_attn:query"
ZERO = torch.tensor(0.0)
METHODS = ("minmax", "percentile", "mse")


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def affine(bits: int = 4, channels: int | None = None) -> Quantizer:
    return Quantizer(SITE, bits, Affine, channels)


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def update(self, x: Tensor, value: Tensor | None) -> None:
        del value
        self.shown.append(x)


def test_observing_returns_the_very_tensor_and_shows_it_once() -> None:
    quantizer, x = affine(), values(3, 5)
    assert quantizer(x) is x
    observer = Seen()
    quantizer.observer = observer
    assert quantizer(x) is x
    assert len(observer.shown) == 1
    assert observer.shown[0] is x


def test_faking_and_frozen_give_the_grid_and_look_no_more() -> None:
    quantizer, x = affine(), values(3, 5)
    observer = Seen()
    quantizer.observer = observer
    scale, zero_point = affine_parameters(x.min(), x.max(), 4)
    quantizer.set(Affine(4, scale, zero_point))
    expected = affine_round_trip(x, scale, zero_point, 4)
    assert quantizer.stage is Stage.FAKE
    assert torch.equal(quantizer(x), expected)
    quantizer.freeze()
    assert quantizer.stage is Stage.FROZEN
    assert torch.equal(quantizer(x), expected)
    assert observer.shown == []
    assert quantizer.observer is None


def test_a_range_may_be_replaced_while_faking() -> None:
    quantizer = affine()
    quantizer.set(Affine(4, torch.tensor(1.0), ZERO))
    quantizer.set(Affine(4, torch.tensor(0.5), torch.tensor(3.0)))
    assert (float(quantizer.affine.scale), float(quantizer.affine.zero_point)) == (0.5, 3.0)


def test_parameters_are_copied_not_shared() -> None:
    quantizer, scale = affine(), torch.tensor(1.0)
    quantizer.set(Affine(4, scale, ZERO))
    scale.mul_(100)
    assert float(quantizer.affine.scale) == 1.0


def test_channels_are_dimension_zero_of_any_weight() -> None:
    weight = values(6, 3, 2, 2) * torch.logspace(-2, 2, 6)[:, None, None, None]
    quantizer = affine(3, channels=6)
    choose_weight_range(quantizer, Ranges(), weight)
    moved = quantizer(weight)
    for row in range(6):
        scale, zero_point = affine_parameters(weight[row].min(), weight[row].max(), 3)
        assert torch.equal(moved[row], affine_round_trip(weight[row], scale, zero_point, 3))


def test_a_log2_quantizer_uses_its_granularity() -> None:
    quantizer, maps = Quantizer(SITE, 4, Log2), torch.softmax(values(2, 3, 8), -1)
    quantizer.set(Log2(4, torch.tensor(0.5), 2))
    assert torch.equal(quantizer(maps), log2_round_trip(maps, torch.tensor(0.5), 2, 4))


def _frozen(quantizer: Quantizer) -> Quantizer:
    if quantizer.kind is Log2:
        quantizer.set(Log2(4, torch.tensor(1.0), 1))
    else:
        quantizer.set(Affine(4, torch.tensor(1.0), ZERO))
    quantizer.freeze()
    return quantizer


def _overridden(quantizer: Quantizer) -> Quantizer:
    quantizer.set(Affine(4, torch.tensor(1.0), ZERO))
    quantizer.override = lambda x, value: x
    return quantizer


def _watched(quantizer: Quantizer) -> Quantizer:
    quantizer.set(Affine(4, torch.tensor(1.0), ZERO))
    quantizer.observer = Seen()
    return quantizer


ILLEGAL: dict[str, tuple[Callable[[], Quantizer], Callable[[Quantizer], object], str]] = {
    "freeze without a range": (affine, lambda q: q.freeze(), "no range was ever observed"),
    "freeze while observed": (lambda: _watched(affine()), lambda q: q.freeze(), "observer is still attached"),
    "new range when frozen": (
        lambda: _frozen(affine()),
        lambda q: q.set(Affine(4, torch.tensor(1.0), ZERO)),
        "is frozen",
    ),
    "new log range when frozen": (
        lambda: _frozen(Quantizer(SITE, 4, Log2)),
        lambda q: q.set(Log2(4, torch.tensor(1.0), 1)),
        "is frozen",
    ),
    "log range on affine": (affine, lambda q: q.set(Log2(4, torch.tensor(1.0), 1)), "has a affine grid"),
    "affine range on log": (
        lambda: Quantizer(SITE, 4, Log2),
        lambda q: q.set(Affine(4, torch.tensor(1.0), ZERO)),
        "has a log2 grid",
    ),
    "granularity 3": (
        lambda: Quantizer(SITE, 4, Log2),
        lambda q: q.set(Log2(4, torch.tensor(1.0), 3)),
        "granularity 3",
    ),
    "other bits": (
        lambda: affine(8),
        lambda q: q.set(Affine(4, torch.tensor(1.0), ZERO)),
        "has 8 bits, not 4",
    ),
    "freeze under an override": (
        lambda: _overridden(affine()),
        lambda q: q.freeze(),
        "another function answers",
    ),
    "scale 0": (affine, lambda q: q.set(Affine(4, torch.tensor(0.0), ZERO)), "finite positive"),
    "scale -1": (affine, lambda q: q.set(Affine(4, torch.tensor(-1.0), ZERO)), "finite positive"),
    "scale nan": (affine, lambda q: q.set(Affine(4, torch.tensor(torch.nan), ZERO)), "finite positive"),
    "scale inf": (affine, lambda q: q.set(Affine(4, torch.tensor(torch.inf), ZERO)), "finite positive"),
    "zero point 16 of 4 bits": (
        affine,
        lambda q: q.set(Affine(4, torch.tensor(1.0), torch.tensor(16.0))),
        r"integer in 0\.\.15",
    ),
    "zero point -1": (
        affine,
        lambda q: q.set(Affine(4, torch.tensor(1.0), torch.tensor(-1.0))),
        r"integer in 0\.\.15",
    ),
    "zero point 0.5": (
        affine,
        lambda q: q.set(Affine(4, torch.tensor(1.0), torch.tensor(0.5))),
        r"integer in 0\.\.15",
    ),
    "zero point nan": (
        affine,
        lambda q: q.set(Affine(4, torch.tensor(1.0), torch.tensor(torch.nan))),
        r"integer in 0\.\.15",
    ),
    "one scale for three channels": (
        lambda: affine(channels=3),
        lambda q: q.set(Affine(4, torch.ones(1), torch.zeros(1))),
        r"shape \(3,\), got \(1,\)",
    ),
    "three zero points for one scale": (
        affine,
        lambda q: q.set(Affine(4, torch.tensor(1.0), torch.zeros(3))),
        "zero point",
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_transitions_name_the_site_and_change_nothing(case: str) -> None:
    make, act, message = ILLEGAL[case]
    quantizer = make()
    before = copy.deepcopy(quantizer)
    with pytest.raises(InvariantError, match=message) as caught:
        act(quantizer)
    assert caught.value.site == SITE
    assert str(caught.value).startswith(f"{SITE}: ")
    assert quantizer.stage is before.stage
    assert quantizer.has_grid == before.has_grid
    assert not before.has_grid or quantizer.grid.to_packed() == before.grid.to_packed()


DEGENERATE = {
    "all zero": torch.zeros(4, 8),
    "one element": torch.tensor([3.5]),
    "one negative element": torch.tensor([-3.5]),
    "constant": torch.full((2, 3, 4), 0.25),
    "constant and negative": torch.full((2, 3, 4), -7.0),
    "hardly anything": torch.full((5,), 1e-30),
    "two values": torch.tensor([0.0, 1e30]),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_degenerate_activations_give_finite_outputs(case: str, method: str, bits: int) -> None:
    """A dead channel, a constant input: the scale is never zero, and a constant comes out as itself."""
    x = DEGENERATE[case]
    quantizer = affine(bits)
    ranges = Ranges(method=method)  # type: ignore[arg-type]
    quantizer.observer = observer_for(quantizer, ranges)
    quantizer(x)
    assert choose_activation_range(quantizer, ranges) is not None
    quantizer.freeze()
    moved = quantizer(x)
    assert bool(torch.isfinite(moved).all())
    assert torch.allclose(moved, x, rtol=1e-3, atol=1e-7)
    assert bool(torch.isfinite(quantizer(x + 100.0)).all())


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_weights_give_finite_outputs(method: str) -> None:
    weight = torch.stack([torch.zeros(6), torch.full((6,), 2.0), torch.full((6,), -2.0), torch.arange(6.0)])
    quantizer = affine(4, channels=4)
    choose_weight_range(quantizer, Ranges(method=method), weight)  # type: ignore[arg-type]
    moved = quantizer(weight)
    assert torch.allclose(moved[:3], weight[:3], atol=1e-6)
    assert bool(torch.isfinite(moved).all())


@pytest.mark.parametrize("maps", [torch.ones(2, 3, 1), torch.full((1, 1, 4), 0.25), torch.ones(1, 1, 1)])
def test_attention_over_one_key_or_none_in_particular(maps: Tensor) -> None:
    quantizer, ranges = Quantizer(SITE, 4, Log2), Ranges()
    quantizer.observer = observer_for(quantizer, ranges)
    quantizer(maps, values(maps.shape[0], maps.shape[2], 4))
    assert choose_activation_range(quantizer, ranges) is not None
    assert torch.allclose(quantizer(maps), maps)


def test_a_site_that_saw_nothing_stays_open() -> None:
    quantizer, ranges = affine(), Ranges()
    assert choose_activation_range(quantizer, ranges) is None
    quantizer.observer = observer_for(quantizer, ranges)
    quantizer(torch.zeros(0, 3))
    assert choose_activation_range(quantizer, ranges) is None
    assert quantizer.stage is Stage.OBSERVE


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused_where_it_is_seen(bad: float) -> None:
    quantizer = affine()
    quantizer.observer = observer_for(quantizer, Ranges())
    with pytest.raises(NumericalError) as caught:
        quantizer(torch.tensor([0.0, bad, 1.0]))
    assert caught.value.site == SITE
    with pytest.raises(NumericalError) as caught:
        choose_weight_range(affine(channels=1), Ranges(), torch.tensor([[0.0, bad]]))
    assert caught.value.site == SITE
    maps = Quantizer(SITE, 4, Log2)
    maps.observer = observer_for(maps, Ranges())
    with pytest.raises(NumericalError) as caught:
        maps(torch.tensor([[[0.5, bad]]]), torch.ones(1, 2, 3))
    assert caught.value.site == SITE
