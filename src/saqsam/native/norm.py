"""Layer norm, as the kernels take it, and of the mask decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.grids.affine import Affine
from saqsam.native.jobs import NormJob
from saqsam.native.kernels import Kernels, codes_buffer, torch_norm_lanes
from saqsam.native.layer import top_of
from saqsam.native.parts import Parts


@dataclass(frozen=True)
class Norm:
    """Layer norm, rounded to a grid or left float.

    Attributes:
        kernels: who computes.
        weight, bias: float32 ``(C,)``.
        epsilon: added to the variance.
        grid: what comes out is rounded to, or ``None``.
    """

    kernels: Kernels
    weight: Tensor
    bias: Tensor
    epsilon: float
    grid: Affine | None

    def run(self, x: Tensor) -> Tensor:
        """float32 ``(rows, C)`` to uint8 codes ``(rows, at least C)``, or to float32 without a grid."""
        job = NormJob(rows=x.shape[0], inner=x.shape[1], epsilon=self.epsilon)
        job.x, job.x_stride = x.data_ptr(), x.stride(0)
        job.weight, job.bias = self.weight.data_ptr(), self.bias.data_ptr()
        job.lanes = torch_norm_lanes()
        if self.grid is None:
            out = torch.empty_like(x)
            job.values, job.value_stride = out.data_ptr(), out.stride(0)
        else:
            out = codes_buffer(*x.shape)
            job.out, job.out_stride = out.data_ptr(), out.stride(0)
            job.scale, job.zero = float(self.grid.scale), float(self.grid.zero_point)
            job.top = top_of(self.grid)
        self.kernels.run("norm", job)
        return out


@dataclass(frozen=True)
class DecoderNorm:
    """Layer norm of the mask decoder, whose tokens PyTorch norms and whose image ``ImageStep`` does.

    Attributes:
        weight, bias: float32 ``(C,)``.
        epsilon: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, parts: Parts, path: str, epsilon: float) -> DecoderNorm:
        """A norm of a file."""
        return cls(parts.floats(f"{path}.weight"), parts.floats(f"{path}.bias"), epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """By PyTorch, of ``(..., C)``."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
