"""Integer products of the kernels against 64-bit integers: any shape, bits, zero points, extremes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.native.kernels import Kernels, codes_buffer
from saqsam.native.layer import Columns, Layer
from saqsam.pack.file import PackedWeight

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 150), st.integers(1, 80))
BITS = st.integers(2, 8)


def grid_of(bits: int, scale: float, zero_point: int) -> Affine:
    return Affine(bits, torch.tensor(scale), torch.tensor(float(zero_point)))


def drawn(generator: torch.Generator, kind: str, top: int, shape: tuple[int, ...]) -> Tensor:
    """Codes: even ones, or nothing but the largest or the two extremes, where sums are largest."""
    if kind == "largest":
        return torch.full(shape, top, dtype=torch.uint8)
    if kind == "extremes":
        return (torch.randint(0, 2, shape, generator=generator) * top).to(torch.uint8)
    return torch.randint(0, top + 1, shape, generator=generator).to(torch.uint8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=SHAPES,
    bits=st.tuples(BITS, BITS),
    kinds=st.tuples(*2 * [st.sampled_from(["even", "largest", "extremes"])]),
    seed=st.integers(0, 2**31),
)
def test_values_are_the_exact_sums_scaled_once(
    kernels: Kernels, shape: tuple[int, int, int], bits: tuple[int, int], kinds: tuple[str, str], seed: int
) -> None:
    """Scales are powers of two, so that every value is a whole number of them and must be equal."""
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(seed)
    tops = [2**one - 1 for one in bits]
    codes = drawn(generator, kinds[0], tops[0], (rows, inner))
    weight = PackedWeight(
        drawn(generator, kinds[1], tops[1], (columns, inner)),
        torch.full((columns,), 0.5),
        drawn(generator, "even", tops[1], (columns,)),
        bits[1],
    )
    origin = int(torch.randint(0, tops[0] + 1, (), generator=generator))
    bias = torch.randint(-9, 9, (columns,), generator=generator).float()
    steps = codes.long() - origin
    matrix = weight.codes.long() - weight.zero_point.long()[:, None]
    expected = (steps @ matrix.T).double() * 0.125 + bias.double()
    outputs = grid_of(8, 4.0, 100)
    layer = Layer.of(kernels, weight, grid_of(bits[0], 0.25, origin), bias, [Columns(outputs, columns)])
    given_codes = codes_buffer(rows, inner)
    given_codes.random_(0, 256)  # what is between rows must not matter
    given_codes[:, :inner] = codes
    values, out = torch.empty(rows, columns), codes_buffer(rows, columns)
    layer.run(given_codes, values=values, out=out)
    assert torch.equal(values.double(), expected)
    assert torch.equal(out[:, :columns], outputs.codes(expected.float()).to(torch.uint8))
    residual = torch.randint(-99, 99, (rows, columns), generator=generator).float()
    layer.run(given_codes, values=values, residual=residual)
    assert torch.equal(values, residual + expected.float())


def test_four_bits_take_half_a_byte(kernels: Kernels) -> None:
    codes = torch.zeros(64, 768, dtype=torch.uint8)
    assert len(kernels.pack_weight(codes, 4)) == 64 * 768 // 2 + 64


def test_any_number_of_threads_gives_the_same(kernels: Kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = PackedWeight(
        drawn(generator, "even", 255, (100, 96)), torch.rand(100), drawn(generator, "even", 255, (100,)), 8
    )
    layer = Layer.of(kernels, weight, grid_of(8, 0.1, 7), None)
    codes = codes_buffer(300, 96)
    codes[:] = drawn(generator, "even", 255, (300, 96))
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(torch.empty(300, 100))
            layer.run(codes, values=found[-1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_values_between_two_codes_are_rounded_as_the_grid_rounds(kernels: Kernels) -> None:
    """Products with the inverse of a scale are off by a last bit: near the middle the division decides."""
    weight = PackedWeight(torch.ones(1, 1, dtype=torch.uint8), torch.ones(1), torch.zeros(1).byte(), 2)
    layer = Layer.of(kernels, weight, grid_of(8, 1.0, 0), None)
    codes = codes_buffer(256, 1)
    codes[:, 0] = torch.arange(256)
    for scale in (0.1, 1 / 3, 0.7, 1.9, 2.0, 3.1415927):
        bias = (torch.arange(64) / 2 - 3) * torch.tensor(scale)
        grid = grid_of(8, scale, 12)
        wide = PackedWeight(weight.codes.expand(64, 1), torch.ones(64), torch.zeros(64).byte(), 2)
        layer = Layer.of(kernels, wide, grid_of(8, 1.0, 0), bias, [Columns(grid, 64)])
        values, out = torch.empty(256, 64), codes_buffer(256, 64)
        layer.run(codes, values=values, out=out)
        assert torch.equal(out[:, :64], grid.codes(values).to(torch.uint8))


@pytest.mark.parametrize("gelu", [False, True])
def test_gelu_is_pytorchs_but_for_its_last_bits(kernels: Kernels, gelu: bool) -> None:
    weight = PackedWeight(torch.ones(1, 1).byte(), torch.tensor([1 / 16]), torch.zeros(1).byte(), 2)
    layer = Layer.of(kernels, weight, grid_of(8, 1.0, 128), None)
    codes = codes_buffer(256, 1)
    codes[:, 0] = torch.arange(256)
    values = torch.empty(256, 1)
    layer = replace(layer)
    layer.run(codes, gelu=gelu, values=values)
    x = (torch.arange(256) - 128)[:, None] / 16
    expected = torch.nn.functional.gelu(x.double()).float() if gelu else x
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
