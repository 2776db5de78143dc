"""Fused attention of the kernels against the same steps in PyTorch, on shapes that no model has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.grids.log2 import Log2
from saqsam.native.attention import Attention, Levels, Operands, position_table
from saqsam.native.kernels import Kernels, codes_buffer


def affine(bits: int, low: float, high: float) -> Affine:
    return Affine.spanning(torch.tensor(low), torch.tensor(high), bits)


def expected(attention: Attention, maps: Affine | Log2, x: Tensor) -> Tensor:
    """Codes of the output, ``(side * side, heads * width)``: window by window, with padding."""
    side, window, heads, width = attention.side, attention.window, attention.heads, attention.width
    count = -(-side // window)
    whole = attention.padding.float().expand(count * window, count * window, -1).clone()
    whole[:side, :side] = x.view(side, side, -1).float()
    parts = whole.unflatten(1, (count, window)).unflatten(0, (count, window)).transpose(1, 2)
    parts = parts.flatten(0, 1).flatten(1, 2).unflatten(2, (3, heads, width)).permute(2, 0, 3, 1, 4)
    grids = attention.operands
    query, key, value = (
        grid.values(part)
        for grid, part in zip((grids.query, grids.key, grids.value), parts.unbind(0), strict=True)
    )
    scores = (grids.query.steps(query) @ grids.key.steps(key).transpose(-2, -1)).mul_(
        (grids.query.scale.double() * width**-0.5).float() * grids.key.scale
    )
    assert attention.tables is not None
    rows, columns = (table[:, :, :window].transpose(1, 2) for table in attention.tables)
    grid = query.unflatten(2, (window, window))
    bias = torch.einsum("mhyxc,ykc->mhyxk", grid, rows)[..., :, None]
    bias = bias + torch.einsum("mhyxc,xkc->mhyxk", grid, columns)[..., None, :]
    scores += bias.flatten(4, 5).flatten(2, 3)
    probabilities = maps.round_trip(scores.softmax(-1))
    if isinstance(maps, Affine):
        gathered = maps.steps(probabilities) @ grids.value.steps(value) * (maps.scale * grids.value.scale)
    else:
        gathered = probabilities @ value
    gathered = gathered.transpose(1, 2).flatten(2).unflatten(1, (window, window))
    gathered = gathered.unflatten(0, (count, count)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return attention.output.codes(gathered[:side, :side].flatten(0, 1)).to(torch.uint8)


@pytest.mark.parametrize("grid", ["affine", "log2"])
@pytest.mark.parametrize(
    ("side", "window", "heads", "width", "bits"),
    [(5, 5, 2, 16, 8), (7, 3, 1, 20, 4), (10, 4, 3, 8, 8), (32, 32, 1, 64, 4), (16, 16, 2, 33, 6)],
)
def test_outputs_are_those_of_the_steps(
    kernels: Kernels, grid: str, side: int, window: int, heads: int, width: int, bits: int
) -> None:
    generator = torch.Generator().manual_seed(side)
    channels = 3 * heads * width
    codes = codes_buffer(side * side, channels)
    codes[:, :channels] = torch.randint(0, 2**bits, (side * side, channels), generator=generator)
    maps = affine(bits, 0.0, 0.7) if grid == "affine" else Log2(bits, torch.tensor(0.9), 2)
    tables = torch.randn(2, 2 * window - 1, width, generator=generator) * 0.2
    attention = Attention(
        kernels,
        side,
        window,
        heads,
        width,
        Operands(affine(bits, -2.0, 2.5), affine(bits, -3.0, 2.0), affine(bits, -1.5, 1.0)),
        maps if isinstance(maps, Affine) else None,
        affine(8, -1.0, 1.0),
        torch.randint(0, 2**bits, (channels,), generator=generator).to(torch.uint8),
        (position_table(tables[0], window), position_table(tables[1], window)),
        False,
        Levels.of(maps) if isinstance(maps, Log2) else None,
    )
    found = attention.run(codes)[:, : heads * width]
    wanted = expected(attention, maps, codes[:, :channels])
    different = (found != wanted).float().mean()
    assert float(different) <= (0.0 if grid == "affine" else 0.002)


def test_levels_are_looked_up_as_the_grid_rounds() -> None:
    """Every limit, and the floats beside it, on each side of each octave's eighths."""
    for tau, bits in ((1, 4), (2, 4), (4, 8)):
        grid = Log2(bits, torch.tensor(0.37), tau)
        levels = Levels.of(grid)
        first = torch.arange(0, 1016)
        bound = levels.limits[:1016].view(torch.int32)
        for shift in (-1, 0, 1):
            x = (bound + shift).clamp(min=0).view(torch.float32)
            index = x.view(torch.int32) >> 20
            inside = (index == first) & (x <= 1)
            looked = torch.where(x > levels.limits[index], levels.high[index], levels.low[index])
            assert torch.equal(looked[inside], grid.round_trip(x)[inside])
