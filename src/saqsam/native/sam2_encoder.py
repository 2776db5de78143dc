"""SAM 2's image encoder on the kernels: Hiera, the neck, and the decoder's two convolutions of features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from saqsam.families import sam2_names as names
from saqsam.graphs.sam2_source import HieraBlock, Sam2Source
from saqsam.native.block_parts import BlockParts, Windows
from saqsam.native.blocks import Block, PoolingBlock
from saqsam.native.kernels import Kernels
from saqsam.native.levels import Convolution, Levels

_STRIDE, _BORDER = 4, 3
"""Of the convolution that makes patches."""


class NativeSam2Encoder:
    """The encoder of a packed SAM 2.

    Args:
        source: of a model that :mod:`saqsam.native.supported` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Sam2Source, kernels: Kernels) -> None:
        build, described = BlockParts(source, kernels), source.blocks
        self._side = source.grid
        weight, bias = (build.floats(f"{names.PATCHES}.projection.{kind}") for kind in ("weight", "bias"))
        self._patches = (weight, bias)
        self._positions = _positions(build, source.image_size // _STRIDE)
        self.blocks = [_block(build, block) for block in described]
        self._ends = [block.ends for block in described]
        coarsest, coarse, middle, fine = names.NECK_CONVOLUTIONS
        fine_reader, middle_reader = names.FEATURE_CONVOLUTIONS
        self._fine = Convolution(build, fine, fine_reader)
        self._middle = Convolution(build, middle, middle_reader)
        self._coarse, self._coarsest = Convolution(build, coarse), Convolution(build, coarsest)
        self._levels = Levels(build, self._side)

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``(1, 3, S, S)`` float32 to the embedding ``(1, C, g, g)`` with levels ``(1, C/8, 4g, 4g)`` and
        ``(1, C/4, 2g, 2g)``."""
        x, stages = self.start(pixel_values), list[Tensor]()
        for block, ends in zip(self.blocks, self._ends, strict=True):
            x = block.run(x)
            if ends:
                stages.append(self.leaving(len(stages), x))
        return self.neck(stages)

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(1, 3, S, S)`` to tokens ``(16 * g * g, C)``, by PyTorch, as in the audited model."""
        found = F.conv2d(pixel_values, *self._patches, stride=_STRIDE, padding=_BORDER)
        return (found.permute(0, 2, 3, 1) + self._positions).flatten(0, 2).contiguous()

    def leaving(self, stage: int, x: Tensor) -> Tensor:
        """What the neck's convolution makes of a stage's tokens ``(n * n, C)``: of the two finer ones codes
        that the decoder's convolutions take, of the others float32 ``(n * n, C')``."""
        convolutions = (self._fine, self._middle, self._coarse, self._coarsest)
        return convolutions[stage].of_values(x, 4 * self._side >> stage)

    def neck(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The embedding as of ``encode``, of what left the four stages."""
        fine, middle, coarse, coarsest = stages
        half = self._side // 2
        twice = coarsest.view(half, 1, half, 1, -1).expand(half, 2, half, 2, -1).flatten(0, 3)
        return self._levels.joined(coarse + twice, middle, fine)


def _positions(build: BlockParts, side: int) -> Tensor:
    """``(1, side, side, C)``: a coarse table enlarged, and that of one window repeated."""
    coarse, window = (build.floats(name) for name in names.POSITIONS)
    large = F.interpolate(coarse, size=(side, side), mode="bicubic")
    times = side // window.shape[-1]
    return (large + window.tile(1, 1, times, times)).permute(0, 2, 3, 1)


def _block(build: BlockParts, block: HieraBlock) -> Block:
    windows = Windows(block.grid, block.window, block.heads, block.width)
    made = build.block(block.names, windows, None)
    if not block.pools:
        return made
    grid = build.affine(block.names.projection)
    return PoolingBlock(
        **vars(made),
        shortcut=(build.norm(block.names.norms[0], grid), build.layer(block.names.projection, None)),
    )
