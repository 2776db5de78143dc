"""The compiled kernels at one level of instructions, called with tensors."""

from __future__ import annotations

import ctypes
import functools
import platform
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.native.library import LEVELS, choose_level, find_library


@dataclass(frozen=True)
class Kernels:
    """The library at one level.

    Attributes:
        handle: the library.
        level: index into ``LEVELS``.
    """

    handle: Any
    level: int

    @property
    def name(self) -> str:
        """The level's name."""
        return LEVELS[self.level]

    def run(self, function: str, job: ctypes.Structure) -> None:
        """Call ``saqsam_<function>`` with as many threads as PyTorch uses."""
        getattr(self.handle, f"saqsam_{function}")(self.level, torch.get_num_threads(), ctypes.byref(job))

    def pack_matrix(self, matrix: Tensor) -> Tensor:
        """A float32 matrix ``(in, out)`` in this level's tiles, flat."""
        values = matrix.float().contiguous()
        sides = (self.level, values.data_ptr(), *values.shape)
        out = torch.empty(self.handle.saqsam_pack_matrix(*sides, None))
        self.handle.saqsam_pack_matrix(*sides, out.data_ptr())
        return out

    def pack_weight(self, codes: Tensor, bits: int) -> Tensor:
        """A weight in this level's tiles.

        Args:
            codes: uint8 ``(out, in)``, of 4-bit or 8-bit steps around 8 or 128.
            bits: 4 or 8: of each step in memory.

        Returns:
            uint8, flat.
        """
        rows = codes.contiguous()
        sides = (self.level, bits, rows.data_ptr(), *rows.shape)
        out = torch.empty(self.handle.saqsam_pack_weight(*sides, None) + 64, dtype=torch.uint8)
        self.handle.saqsam_pack_weight(*sides, out.data_ptr())
        return out

    def patches(self, codes: Tensor, side: int, channels: int, zero: int) -> Tensor:
        """3x3 neighbourhoods of ``codes (side * side, stride)``: ``(side * side, 9 * channels)`` or wider."""
        out = codes_buffer(side * side, 9 * channels)
        self.handle.saqsam_patches(
            torch.get_num_threads(),
            codes.data_ptr(),
            codes.stride(0),
            side,
            channels,
            zero,
            out.data_ptr(),
            out.stride(0),
        )
        return out


def codes_buffer(rows: int, columns: int) -> Tensor:
    """Uninitialised uint8 ``(rows, columns)``, rows padded to 32 bytes, with the readable bytes beyond the
    last row that kernels ask for."""
    stride = -(-columns // 32) * 32
    return torch.empty(rows * stride + 64, dtype=torch.uint8)[: rows * stride].view(rows, stride)


def load_kernels(cap: str | None = None) -> Kernels:
    """The fastest level here, at most ``cap``; arguments and errors as of ``choose_level``."""
    return Kernels(find_library(), choose_level(cap))


@functools.cache
def torch_lanes() -> int:
    """How many floats PyTorch's softmax adds side by side on this processor: its order of additions."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 8 if capability == "SVE256" else 4
    return 16 if capability == "AVX512" else 8


def torch_norm_lanes() -> int:
    """The same of its layer norm, which has no more than eight."""
    return min(torch_lanes(), 8)
