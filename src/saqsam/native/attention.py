"""Attention of an encoder block, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.native.jobs import AttentionJob
from saqsam.native.kernels import Kernels, codes_buffer, torch_lanes
from saqsam.native.layer import top_of

_STRIDE = 16
"""Rows of position tables are padded to a multiple of it."""
_FIRST_BITS = 12
"""Bits of a float32, sign and exponent among them, that name an eighth of an octave."""


@dataclass(frozen=True)
class Levels:
    """A logarithmic grid as the kernels look it up: by the first bits of a value, float32 each.

    Attributes:
        limits: the largest value that still belongs to the lower of the two levels near it.
        low, high: the levels below and above.
    """

    limits: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, grid: Grid) -> Levels:
        """Of a grid with at most four levels in an octave, asked of the grid itself: PyTorch's codes are
        found again for every float."""
        first = torch.arange(1 << _FIRST_BITS, dtype=torch.int64) << 20
        top = 0x3F800000  # of 1, the largest value of a map
        start, end = first.clamp(max=top), (first + (1 << 20) - 1).clamp(max=top)
        highest = grid.codes(_floats(start))  # of the smallest value in it: codes fall
        lowest = grid.codes(_floats(end))
        below, above = start, end  # around the largest value that has the code of the smallest
        for _ in range(21):
            middle = (below + above + 1) // 2
            same = grid.codes(_floats(middle)) == highest
            below, above = torch.where(same, middle, below), torch.where(same, above, middle - 1)
        values = grid.values(torch.stack([highest, lowest]))
        return cls(_floats(below).contiguous(), values[0].contiguous(), values[1].contiguous())


def _floats(bits: Tensor) -> Tensor:
    return bits.to(torch.int32).view(torch.float32)


@dataclass(frozen=True)
class Operands:
    """The grids of query, key and value."""

    query: Affine
    key: Affine
    value: Affine


@dataclass(frozen=True)
class Attention:
    """Between the two projections of a block.

    Attributes:
        kernels: who computes.
        side, window, heads, width: of the image and of windows in tokens, and channels of a head.
        operands: the grids of query, key and value.
        map: the map's grid where it is affine; else there are ``levels``.
        output: grid of what the projection takes.
        padding: uint8 codes of query, key and value of a token outside the image.
        tables: relative positions of rows and columns, ``(window, width, stride)`` float32, or ``None``.
        float_query: whether positions are multiplied with the query before it is rounded.
    """

    kernels: Kernels
    side: int
    window: int
    heads: int
    width: int
    operands: Operands
    map: Affine | None
    output: Affine
    padding: Tensor
    tables: tuple[Tensor, Tensor] | None
    float_query: bool
    levels: Levels | None

    def run(self, codes: Tensor, query: Tensor | None = None, pooled: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            codes: uint8 ``(side * side, 3 * heads * width)`` or wider: query, key, value.
            query: float32 ``(side * side, heads * width)``, of a float query.
            pooled: uint8 ``(side * side / 4, heads * width)``, queries that stand for 2x2 tokens each.

        Returns:
            uint8 codes ``(rows, heads * width)`` or wider, as many rows as there are queries.
        """
        out = codes_buffer(len(codes) if pooled is None else len(pooled), self.heads * self.width)
        job = AttentionJob(side=self.side, window=self.window, heads=self.heads, width=self.width)
        job.codes, job.code_stride, job.padding = codes.data_ptr(), codes.stride(0), self.padding.data_ptr()
        if pooled is not None:
            job.pooled, job.pooled_stride = pooled.data_ptr(), pooled.stride(0)
        grids = self.operands
        for name, grid in (("query", grids.query), ("key", grids.key), ("value", grids.value)):
            setattr(job, f"{name}_zero", int(grid.zero_point))
            setattr(job, f"{name}_top", top_of(grid))
        job.query_scale, job.value_scale = float(grids.query.scale), float(grids.value.scale)
        job.score_scale = float((grids.query.scale.double() * self.width**-0.5).float() * grids.key.scale)
        if self.float_query and query is not None:
            job.query_values, job.query_stride = query.data_ptr(), query.stride(0)
        if self.tables is not None:
            job.table_rows, job.table_columns = (table.data_ptr() for table in self.tables)
            job.table_stride = self.tables[0].shape[2]
        job.lanes = torch_lanes()
        self._set_map(job)
        job.out_scale, job.out_zero = float(self.output.scale), float(self.output.zero_point)
        job.out_top, job.out, job.out_stride = top_of(self.output), out.data_ptr(), out.stride(0)
        self.kernels.run("attention", job)
        return out

    def _set_map(self, job: Any) -> None:
        if self.map is not None:
            job.map_scale, job.map_zero = float(self.map.scale), float(self.map.zero_point)
            job.map_top = top_of(self.map)
            job.output_scale = float(self.map.scale * self.operands.value.scale)
        elif self.levels is not None:
            job.level_limits, job.level_low, job.level_high = (
                table.data_ptr() for table in (self.levels.limits, self.levels.low, self.levels.high)
            )


def position_table(table: Tensor, side: int) -> Tensor:
    """Vectors for each pair of positions along one axis, ``(2 * side - 1, width)`` to
    ``(query, width, padded key)`` float32."""
    offsets = torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1
    vectors = table.float()[offsets].transpose(1, 2)  # (query, width, key)
    return torch.nn.functional.pad(vectors, (0, -side % _STRIDE)).contiguous()
