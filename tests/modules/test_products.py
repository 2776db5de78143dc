"""Frozen products are those of integers, in whatever order and batch they are added up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saqsam.grids.affine import Affine
from saqsam.modules.attention import AttentionQuantizers
from saqsam.modules.layers import QuantConv2d, QuantLinear
from saqsam.modules.quantizer import Quantizer

BITS = st.integers(2, 8)


def quantizer(bits: int, generator: torch.Generator, channels: int | None = None) -> Quantizer:
    """A settled quantizer with a random range."""
    made = Quantizer("site", bits, channels=channels)
    shape = () if channels is None else (channels,)
    scale = torch.rand(shape, generator=generator) * 0.1 + 0.01
    made.set(Affine(bits, scale, torch.randint(0, 2**bits, shape, generator=generator).float()))
    return made


def whole(x: Tensor, on: Quantizer) -> np.ndarray:
    """Steps from zero as 64-bit integers, by the definition of the grid."""
    scale, zero_point = (np.asarray(part) for part in on.affine.shaped(x))
    levels = 2**on.bits - 1
    return (np.clip(np.round(x.numpy() / scale) + zero_point, 0, levels) - zero_point).astype(np.int64)


@settings(max_examples=40, deadline=None)
@given(
    input_bits=BITS, weight_bits=BITS, width=st.sampled_from([1, 40, 700, 3000]), seed=st.integers(0, 2**31)
)
def test_a_frozen_layer_adds_up_integers(input_bits: int, weight_bits: int, width: int, seed: int) -> None:
    """Weights are as large as they can be, so all three ways of adding up are taken."""
    generator = torch.Generator().manual_seed(seed)
    layer = QuantLinear(
        nn.Linear(width, 8), quantizer(input_bits, generator), quantizer(weight_bits, generator, 8)
    )
    layer.weight.data = torch.randn(8, width, generator=generator) * 20
    assert layer.input_quantizer is not None
    assert layer.weight_quantizer is not None
    x = torch.randn(5, width, generator=generator) * 20
    codes, weights = whole(x, layer.input_quantizer), whole(layer.weight.data, layer.weight_quantizer)
    layer.freeze_weight()
    layer.input_quantizer.freeze()
    sums = torch.from_numpy(codes @ weights.T).float()
    scale = layer.input_quantizer.affine.scale * layer.weight_quantizer.affine.scale
    with torch.no_grad():
        assert layer.bias is not None
        assert torch.equal(layer(x), sums * scale + layer.bias)
        assert torch.equal(layer(x)[2:3], layer(x[2:3]))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_frozen_convolution_is_the_convolution_of_its_values(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    layer = QuantConv2d(
        nn.Conv2d(6, 10, 3, padding=1), quantizer(bits, generator), quantizer(bits, generator, 10)
    )
    assert layer.input_quantizer is not None
    x = torch.randn(2, 6, 9, 7, generator=generator)
    with torch.no_grad():
        values = layer(x)
        layer.freeze_weight()
        layer.input_quantizer.freeze()
        torch.testing.assert_close(layer(x), values, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(bits=BITS, seed=st.integers(0, 2**31))
def test_frozen_attention_does_not_depend_on_order_or_batch(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made = [quantizer(bits, generator) for _ in range(4)]
    made[3] = Quantizer("map", bits)
    made[3].set(Affine(bits, torch.tensor(1 / (2**bits - 1)), torch.tensor(0.0)))
    for one in made:
        one.freeze()
    quantizers = AttentionQuantizers(*made)
    query, key, value = (made[i](torch.randn(3, 50, 16, generator=generator)) for i in range(3))
    shuffled = torch.randperm(50, generator=generator)
    with torch.no_grad():
        scores = quantizers.scores(query, key, 0.3)
        torch.testing.assert_close(scores, 0.3 * query @ key.transpose(1, 2), rtol=1e-4, atol=1e-4)
        assert torch.equal(scores[1:2, 7:8], quantizers.scores(query[1:2, 7:8], key[1:2], 0.3))
        maps = made[3](torch.softmax(scores, -1))
        output = quantizers.weighted(maps, value)
        torch.testing.assert_close(output, maps @ value, rtol=1e-4, atol=1e-4)
        assert torch.equal(output, quantizers.weighted(maps[:, :, shuffled], value[:, shuffled]))


def test_half_precision_multiplies_values() -> None:
    """Sums of steps would be larger than any float16."""
    generator = torch.Generator().manual_seed(4)
    layer = QuantLinear(nn.Linear(900, 4), quantizer(8, generator), quantizer(8, generator, 4))
    assert layer.input_quantizer is not None
    layer.weight.data += 5.0
    layer.freeze_weight()
    layer.input_quantizer.freeze()
    with torch.no_grad():
        assert bool(torch.isfinite(layer.bfloat16()(torch.full((2, 900), 2.0, dtype=torch.bfloat16))).all())
        assert bool(torch.isfinite(layer.half()(torch.full((2, 900), 2.0, dtype=torch.float16))).all())


def test_gradients_still_pass_through_frozen_layers() -> None:
    """Learning looks through what is frozen already: rounding steps again would stop every gradient."""
    generator = torch.Generator().manual_seed(3)
    layer = QuantLinear(nn.Linear(12, 4), quantizer(8, generator), quantizer(4, generator, 4))
    layer.freeze_weight()
    bare = QuantLinear(nn.Linear(12, 4), None, layer.weight_quantizer)
    bare.weight = layer.weight
    x = torch.randn(2, 12, generator=generator, requires_grad=True)
    bare(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, -1).detach())
