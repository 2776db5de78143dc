"""The image's side of the mask decoder: rows that are normed, rounded and projected, a few at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from saqsam.native.crossing import Projection
from saqsam.native.jobs import SettleJob
from saqsam.native.kernels import Kernels, codes_buffer
from saqsam.native.layer import top_of
from saqsam.native.parts import Parts


@dataclass(frozen=True)
class Norm:
    """Layer norm: weight and bias ``(C,)``."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, parts: Parts, path: str, epsilon: float) -> Norm:
        """A norm of a file."""
        return cls(parts.floats(f"{path}.weight"), parts.floats(f"{path}.bias"), epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """By PyTorch, of ``(..., C)``."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class Asked:
    """A projection of the image's tokens, and whether their positions are added to what goes in."""

    projection: Projection
    with_positions: bool


@dataclass
class RowJobs:
    """Jobs that compute each row of the image by itself, in order, and the tensors that they are about.

    Attributes:
        rows: of all prompts together.
        jobs: see ``Kernels.rows``.
    """

    rows: int
    jobs: list[ctypes.Structure] = field(default_factory=list)
    _alive: list[Tensor] = field(default_factory=list)

    def codes(self, columns: int) -> Tensor:
        """A buffer for codes that lives as long as this."""
        found = codes_buffer(self.rows, columns)
        self._alive.append(found)
        return found

    def settle(
        self,
        x: Tensor,
        asked: Sequence[Asked],
        positions: Tensor,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        values: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Add, norm, round and project; returns codes for each of ``asked``.

        Args:
            x: float32 ``(rows, C)``.
            asked: at most three.
            positions: float32 ``(n, C)``, one after the other, again and again.
            norm: of the sum, if there is one.
            residual: float32 ``(n, C)``, likewise, added to ``x``.
            values: where the outcome goes, float32 ``(rows, C)``; may be ``x`` or ``residual``.
        """
        job = SettleJob(inner=x.shape[1], x=x.data_ptr(), outputs=len(asked))
        job.positions, job.position_rows = positions.data_ptr(), len(positions)
        if residual is not None:
            job.residual, job.residual_rows = residual.data_ptr(), len(residual)
        if norm is not None:
            job.weight, job.bias = norm.weight.data_ptr(), norm.bias.data_ptr()
            job.epsilon = norm.epsilon
        if values is not None:
            job.values = values.data_ptr()
        self.jobs.append(job)
        found = []
        for rounding, one in zip(job.rounding, asked, strict=False):
            grid, layer = one.projection.grid, one.projection.layer
            inputs, outputs = self.codes(layer.inner), codes_buffer(self.rows, layer.columns)
            rounding.out, rounding.stride = inputs.data_ptr(), inputs.stride(0)
            rounding.scale, rounding.zero = float(grid.scale), float(grid.zero_point)
            rounding.top, rounding.with_positions = top_of(grid), int(one.with_positions)
            self.jobs.append(layer.job(inputs, out=outputs))
            found.append(outputs)
        return tuple(found)

    def run(self, kernels: Kernels, prompts: int) -> None:
        """Do it."""
        kernels.rows(self.jobs, prompts, self.rows // prompts)
