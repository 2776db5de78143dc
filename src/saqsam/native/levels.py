"""What makes the levels of an embedding of SAM 2 and SAM 3 on the kernels: convolutions of maps."""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.families.sam2_names import FEATURE_CONVOLUTIONS, NO_MEMORY
from saqsam.native.block_parts import BlockParts
from saqsam.native.kernels import codes_buffer
from saqsam.native.layer import Columns, rounded


class Convolution:
    """A 1x1 convolution, or a 3x3 one with a border of zeros, of a square map's tokens.

    Args:
        build: what knows the file.
        path: of the layer.
        reader: path of the layer that alone reads what it gives; empty where floats are wanted.
    """

    def __init__(self, build: BlockParts, path: str, reader: str = "") -> None:
        self._kernels, self._grid = build.kernels, build.affine(path)
        columns, self._inner, self._reach = build.source.packed.weights[path].codes.shape[:3]
        self._layer = build.layer(path, [Columns(build.affine(reader), columns)] if reader else None)

    def of_values(self, x: Tensor, side: int) -> Tensor:
        """float32 ``(side * side, C)`` to what ``of_codes`` gives."""
        return self.of_codes(rounded(x, self._grid), side)

    def of_codes(self, codes: Tensor, side: int) -> Tensor:
        """uint8 ``(side * side, at least C)`` to float32 ``(side * side, C')``, or to the reader's codes."""
        if self._reach > 1:
            codes = self._kernels.patches(codes, side, self._inner, int(self._grid.zero_point))
        rows, columns = len(codes), self._layer.columns
        if self._layer.grids is not None:
            out = codes_buffer(rows, columns)
            self._layer.run(codes, out=out)
            return out
        values = torch.empty(rows, columns)
        self._layer.run(codes, values=values)
        return values


class Levels:
    """The two finer levels as the decoder reads them, and the coarsest one as prompts are decoded on it.

    Args:
        build: what knows the file.
        side: of the coarsest level.
    """

    def __init__(self, build: BlockParts, side: int) -> None:
        self._side = side
        self._features = [Convolution(build, path) for path in FEATURE_CONVOLUTIONS]
        self._no_memory = build.floats(NO_MEMORY).flatten()

    def joined(self, main: Tensor, middle: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels of the neck to those of the embedding.

        Args:
            main: float32 ``(g * g, C)``.
            middle, fine: codes of ``(2g * 2g, C)`` and ``(4g * 4g, C)``, as these two convolutions take them.

        Returns:
            The embedding ``(1, C, g, g)`` with levels ``(1, C/8, 4g, 4g)`` and ``(1, C/4, 2g, 2g)``.
        """
        sides = (4 * self._side, 2 * self._side)
        first, second = (
            as_map(convolution.of_codes(codes, side), side)
            for convolution, codes, side in zip(self._features, (fine, middle), sides, strict=True)
        )
        return as_map(main + self._no_memory, self._side), first, second


def as_map(x: Tensor, side: int) -> Tensor:
    """Tokens ``(side * side, C)`` to ``(1, C, side, side)``."""
    return x.view(1, side, side, -1).permute(0, 3, 1, 2).contiguous()
