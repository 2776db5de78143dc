"""SAM's image encoder on the kernels, SAM-HQ's too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.graphs.source import Source
from saqsam.native.attention import position_table
from saqsam.native.block_parts import BlockParts, Windows
from saqsam.native.blocks import Block
from saqsam.native.kernels import Kernels
from saqsam.native.layer import rounded

_NECK_EPSILON = 1e-6


class NativeEncoder:
    """The encoder of a packed model.

    Args:
        source: of a model that :mod:`saqsam.native.supported` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Source, kernels: Kernels) -> None:
        self._side, self._patch = source.grid, int(source.vision["patch_size"])
        self._early = source.early_block
        names, build = source.names, BlockParts(source, kernels)
        self._patches = (
            build.floats(f"{names.projection}.weight"),
            build.floats(f"{names.projection}.bias"),
        )
        self._positions = build.floats(names.positions) if source.vision["use_abs_pos"] else None
        self.blocks = [_block(build, index) for index in range(len(names.blocks))]
        first, second = names.neck_convolutions
        self._first = build.layer(first, None)
        self._second = build.layer(second, None)
        self._middle = build.affine(second)
        self._norms = (
            build.norm(names.neck_norms[0], self._middle, _NECK_EPSILON),
            build.norm(names.neck_norms[1], None, _NECK_EPSILON),
        )
        self._start = build.affine(first)
        self._kernels = kernels

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``(1, 3, S, S)`` float32 to the embedding ``(1, C, g, g)``, and of SAM-HQ the early tokens
        ``(1, D, g, g)``."""
        x, early = self.start(pixel_values), list[Tensor]()
        for index, block in enumerate(self.blocks):
            x = block.run(x)
            if index == self._early:
                early.append(x.clone().view(1, self._side, self._side, -1).permute(0, 3, 1, 2))
        return (self.neck(x), *early)

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(1, 3, S, S)`` to tokens ``(g * g, C)``, by PyTorch, as in the audited model."""
        found = F.conv2d(pixel_values, *self._patches, stride=self._patch).permute(0, 2, 3, 1)
        found = found if self._positions is None else found + self._positions
        return found.flatten(0, 2).contiguous()

    def neck(self, x: Tensor) -> Tensor:
        """Tokens ``(g * g, C)`` to the embedding ``(1, C', g, g)``."""
        side = self._side
        maps = torch.empty(len(x), self._first.columns)
        self._first.run(rounded(x, self._start), values=maps)
        codes = self._norms[0].run(maps)
        patches = self._kernels.patches(codes, side, maps.shape[1], int(self._middle.zero_point))
        maps = torch.empty(len(x), self._second.columns)
        self._second.run(patches, values=maps)
        return self._norms[1].run(maps).view(1, side, side, -1).permute(0, 3, 1, 2).contiguous()


def _block(build: BlockParts, index: int) -> Block:
    source = build.source
    names, vision, side = source.names.blocks[index], source.vision, source.grid
    window = source.window(index)
    tables = None
    if vision["use_rel_pos"]:
        rows, columns = (position_table(build.floats(name), window) for name in names.tables)
        tables = (rows, columns)
    windows = Windows(side, window, int(vision["num_attention_heads"]), int(vision["hidden_size"]))
    return build.block(names, windows, tables)
