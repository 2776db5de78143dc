"""A linear layer or a convolution, as the kernels take it: integers in tiles, constants by column."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.native.jobs import LinearJob
from saqsam.native.kernels import Kernels, codes_buffer
from saqsam.pack.file import PackedWeight

_COLUMNS = 32
"""Arrays by column are padded to a multiple of it."""


@dataclass(frozen=True)
class Columns:
    """Columns side by side that are rounded to one grid."""

    grid: Affine
    count: int


@dataclass(frozen=True)
class OutputGrids:
    """The grid that each column's values are rounded to: float32 of the columns' number."""

    scale: Tensor
    inverse: Tensor
    zero: Tensor
    top: Tensor

    @classmethod
    def of(cls, parts: list[Columns]) -> OutputGrids:
        """Grids side by side."""
        scale, zero, top = (
            padded(torch.cat([torch.full((part.count,), float(value(part.grid))) for part in parts]), 1.0)
            for value in (lambda grid: grid.scale, lambda grid: grid.zero_point, lambda grid: top_of(grid))
        )
        return cls(scale, 1 / scale, zero, top)


@dataclass(frozen=True)
class Layer:
    """One layer; values are ``(sum + offset - zero * row) * scale + bias``, see the header.

    Attributes:
        kernels: who computes.
        columns, inner: outputs and inputs.
        weight: as packed.
        bits: 4 or 8, of the weight in memory.
        largest_code: of the input's grid.
        largest_step: of the weight.
        offset, zero: int32, by column.
        scale, bias: float32, by column.
        grids: what comes out is rounded to, or ``None``.
    """

    kernels: Kernels
    columns: int
    inner: int
    weight: Tensor
    bits: int
    largest_code: int
    largest_step: int
    offset: Tensor
    zero: Tensor
    scale: Tensor
    bias: Tensor
    grids: OutputGrids | None

    @classmethod
    def of(
        cls,
        kernels: Kernels,
        weight: PackedWeight,
        inputs: Affine,
        bias: Tensor | None,
        grids: list[Columns] | None = None,
    ) -> Layer:
        """A layer from the integers of a file.

        Args:
            kernels: who computes.
            weight: of a linear layer, or of a convolution, whose inputs are then patches, places first.
            inputs: grid of what comes in.
            bias: ``(out,)``, or ``None``.
            grids: of what comes out; ``None`` leaves floats.
        """
        codes = weight.codes
        codes = codes.movedim(1, -1).flatten(1) if codes.ndim == 4 else codes
        half = 1 << (weight.bits - 1)
        bits = 4 if weight.bits <= 4 else 8
        steps = codes.to(torch.int32) - half
        zero = weight.zero_point.to(torch.int32) - half
        origin = int(inputs.zero_point)
        offset = -origin * steps.sum(1, dtype=torch.int32) + codes.shape[1] * origin * zero
        scale = inputs.scale * weight.scale
        return cls(
            kernels,
            len(codes),
            codes.shape[1],
            kernels.pack_weight((codes + ((1 << (bits - 1)) - half)).to(torch.uint8), bits),
            bits,
            int(top_of(inputs)),
            half,
            padded(offset.to(torch.int32)),
            padded(zero),
            padded(scale),
            padded(torch.zeros_like(scale) if bias is None else bias.float()),
            None if grids is None else OutputGrids.of(grids),
        )

    def run(
        self,
        codes: Tensor,
        *,
        gelu: bool = False,
        values: Tensor | None = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> None:
        """Multiply; arguments as of ``job``."""
        job = self.job(codes, gelu=gelu, values=values, residual=residual, out=out)
        self.kernels.run("linear", job)

    def job(
        self,
        codes: Tensor,
        *,
        gelu: bool = False,
        values: Tensor | None = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> LinearJob:
        """What is to be multiplied; the tensors have to live until it is.

        Args:
            codes: uint8 ``(rows, at least in)``, from ``codes_buffer``.
            gelu: whether values go through GELU.
            values: float32 ``(rows, at most out)`` for values of the first columns.
            residual: float32 of the shape of ``values``, added to them; may be ``values``.
            out: uint8 ``(rows, at least out)`` for codes on ``grids``.
        """
        job = LinearJob(rows=len(codes), columns=self.columns, inner=self.inner, gelu=int(gelu))
        job.codes, job.code_stride = codes.data_ptr(), codes.stride(0)
        job.weight, job.weight_bits = self.weight.data_ptr(), self.bits
        job.largest_code, job.largest_step = self.largest_code, self.largest_step
        job.offset, job.zero = self.offset.data_ptr(), self.zero.data_ptr()
        job.scale, job.bias = self.scale.data_ptr(), self.bias.data_ptr()
        if values is not None:
            job.values, job.value_stride, job.value_columns = (
                values.data_ptr(),
                values.stride(0),
                values.shape[1],
            )
        if residual is not None:
            job.residual = residual.data_ptr()
        if out is not None and self.grids is not None:
            job.out, job.out_stride = out.data_ptr(), out.stride(0)
            job.grid_scale, job.grid_inverse = self.grids.scale.data_ptr(), self.grids.inverse.data_ptr()
            job.grid_zero, job.grid_top = self.grids.zero.data_ptr(), self.grids.top.data_ptr()
        return job


def padded(x: Tensor, filler: float = 0.0) -> Tensor:
    """A vector as long as the kernels read it."""
    missing = -len(x) % _COLUMNS
    return torch.nn.functional.pad(x, (0, missing), value=filler).contiguous()


def rounded(x: Tensor, grid: Affine) -> Tensor:
    """Codes of float32 ``(rows, C)`` as layers take them: uint8 ``(rows, at least C)``."""
    codes = codes_buffer(*x.shape)
    codes[:, : x.shape[1]] = grid.codes(x)
    return codes


def top_of(grid: Affine) -> int:
    """The largest code."""
    return (1 << grid.bits) - 1
