"""Grids with gradients: exactly the finished model's values, gradients by the published formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.grids.affine import Affine, affine_round_trip
from saqsam.grids.log2 import Log2, log2_round_trip
from saqsam.reconstruct.mixing import Mixing


@given(
    seed=st.integers(0, 999),
    bits=st.integers(2, 8),
    scale=st.floats(1e-3, 2.0),
    origin=st.floats(0.0, 1.0),
    mixed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_affine_values_and_gradients(seed: int, bits: int, scale: float, origin: float, mixed: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 50, generator=generator).requires_grad_()
    s, levels = torch.tensor(scale, requires_grad=True), 2**bits - 1
    zero = torch.tensor(float(round(origin * levels)))
    mask = torch.rand(3, 50, generator=generator) < 0.5 if mixed else None
    upstream = torch.randn(3, 50, generator=generator)

    found = Affine(bits, s, zero).differentiable(x, mask, s)
    found.backward(upstream)

    exact = affine_round_trip(x.detach(), s.detach(), zero, bits)
    taken = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    assert torch.equal(found, torch.where(taken, exact, x))
    # LSQ (Esser et al. 2020, equations 3 and 5), written out element by element.
    v = (x / s).detach()
    code = v.round() + zero
    inside = (code >= 0) & (code <= levels)
    to_scale = torch.where(inside, v.round() - v, code.clamp(0, levels) - zero)
    assert x.grad is not None
    assert s.grad is not None
    assert torch.equal(x.grad, upstream * (inside | ~taken))
    assert s.grad.item() == pytest.approx((upstream * to_scale * taken).sum().item(), rel=1e-4, abs=1e-3)


@given(
    seed=st.integers(0, 999),
    bits=st.integers(2, 8),
    tau=st.sampled_from([1, 2, 4]),
    mixed=st.booleans(),
    flat=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_log2_values_and_gradients(seed: int, bits: int, tau: int, mixed: bool, flat: bool) -> None:
    """``flat``: with values at which the grid has no slope."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.softmax(3 * torch.randn(4, 30, generator=generator), -1)
    if flat:
        x[0, :2] = torch.tensor([0.0, 0.9])
    x.requires_grad_()
    scale = torch.tensor(0.5 if flat else 1.0)
    mask = torch.rand(4, 30, generator=generator) < 0.5 if mixed else None

    found = Log2(bits, scale, tau).differentiable(x, mask)
    found.sum().backward()

    exact = log2_round_trip(x.detach(), scale, tau, bits)
    taken = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    assert torch.equal(found, torch.where(taken, exact, x))
    # d x_hat / d x of s 2**(-n / tau) with n = -tau log2(x / s): x_hat / x while n is an inner code.
    code = (-tau * torch.log2(x.detach() / scale)).round()
    active = (code >= 0) & (code < 2**bits - 1)
    expected = torch.where(active, exact / x.detach(), 0.0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(taken, expected, 1.0))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_tensor_gives_what_its_parts_give(transposed: bool) -> None:
    """It is worked through in pieces where it lies in memory in order."""
    generator = torch.Generator().manual_seed(7)
    x = 4 * torch.randn(5, 300, 1001, generator=generator)
    upstream, mask = torch.randn(x.shape, generator=generator), torch.rand(x.shape, generator=generator) < 0.5
    if transposed:
        x, upstream, mask = (one.transpose(1, 2) for one in (x, upstream, mask))

    def found(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        part, back, coins = rows
        leaf, scale = part.detach().requires_grad_(), torch.tensor(0.37, requires_grad=True)
        output = Affine(4, scale, torch.tensor(6.0)).differentiable(leaf, coins, scale)
        output.backward(back)
        assert leaf.grad is not None
        assert scale.grad is not None
        return output.detach(), leaf.grad, scale.grad

    whole = found(x, upstream, mask)
    parts = [found(*rows) for rows in zip(x, upstream, mask, strict=True)]
    for index in (0, 1):
        assert torch.equal(whole[index], torch.stack([part[index] for part in parts]))
    assert whole[2].item() == pytest.approx(sum(part[2].item() for part in parts), rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_the_share_of_quantized_elements(share: float) -> None:
    x = torch.zeros(1001, 37)
    mask = Mixing(share, torch.Generator().manual_seed(3)).mask(x)
    assert mask is not None
    assert mask.float().mean().item() == pytest.approx(share, abs=0.01)
    # Neighbours, which come from one random number, must not move together.
    pairs = (mask[:, 1:] & mask[:, :-1]).float().mean().item()
    assert pairs == pytest.approx(share**2, abs=0.01)


def test_coins_come_from_their_generator_alone() -> None:
    x = torch.zeros(50, 50)
    first, again, other = (Mixing(0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    mask = first.mask(x)
    assert mask is not None
    assert torch.equal(mask, again.mask(x))  # type: ignore[arg-type]
    assert not torch.equal(mask, other.mask(x))  # type: ignore[arg-type]
    assert not torch.equal(mask, first.mask(x))  # type: ignore[arg-type]


def test_a_share_of_one_quantizes_everything() -> None:
    assert Mixing(1.0, torch.Generator()).mask(torch.zeros(5)) is None
