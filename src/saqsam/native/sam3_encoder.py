"""SAM 3's image encoder on the kernels: blocks whose queries and keys are turned by positions, and a neck."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.families import sam3_names as names
from saqsam.families.sam2_names import FEATURE_CONVOLUTIONS
from saqsam.graphs.sam3_source import Sam3Source
from saqsam.native.attention import Attention
from saqsam.native.block_parts import BlockParts, Windows
from saqsam.native.blocks import Rest
from saqsam.native.kernels import Kernels, codes_buffer
from saqsam.native.layer import Columns, Layer
from saqsam.native.levels import Convolution, Levels
from saqsam.native.norm import Norm


@dataclass(frozen=True)
class Turns:
    """By which the channels of queries and keys are turned, ``(tokens, 1, C / heads)`` each."""

    cosine: Tensor
    sine: Tensor

    def turned(self, x: Tensor) -> Tensor:
        """``(tokens, C)`` float32 with each pair of channels turned, in the audited model's operations."""
        parts = x.unflatten(1, (-1, self.cosine.shape[-1]))
        even, odd = parts.unflatten(-1, (-1, 2)).unbind(-1)
        crossed = torch.stack((-odd, even), dim=-1).flatten(-2)
        turned: Tensor = parts * self.cosine + crossed * self.sine
        return turned.flatten(1)


@dataclass(frozen=True)
class TurningBlock:
    """Norm, attention, norm, MLP; queries and keys are turned before they are rounded.

    Attributes:
        norms: for query, key and value each; those that round to one grid are one.
        projections: of query, key and value; the last one gives codes.
        side: of the image in tokens; the attention's own is padded to whole windows.
    """

    norms: tuple[Norm, Norm, Norm]
    projections: tuple[Layer, Layer, Layer]
    turns: Turns
    attention: Attention
    rest: Rest
    side: int

    def run(self, x: Tensor) -> Tensor:
        """float32 tokens ``(side * side, C)``, in place."""
        return self.rest.run(x, self._gathered(x))

    def _gathered(self, x: Tensor) -> Tensor:
        channels, padded = x.shape[1], self.attention.side
        qkv = codes_buffer(padded**2, 3 * channels)
        operands = self.attention.operands
        inputs = self._inputs(x)
        for place, grid in enumerate((operands.query, operands.key)):
            values = torch.empty(padded**2, channels)
            self.projections[place].run(inputs[place], values=values)
            part = qkv[:, place * channels : (place + 1) * channels]
            part.copy_(grid.codes(self.turns.turned(values)))
        self.projections[2].run(inputs[2], out=qkv[:, 2 * channels :])
        found = self.attention.run(qkv)
        return found if padded == self.side else _cropped(found, padded, self.side)

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What the three projections take."""
        found: dict[int, Tensor] = {}
        for norm in self.norms:
            if id(norm) not in found:
                found[id(norm)] = self._whole(norm, x)
        return [found[id(norm)] for norm in self.norms]

    def _whole(self, norm: Norm, x: Tensor) -> Tensor:
        """Codes of the norm, with zeros around them up to whole windows."""
        codes, padded = norm.run(x), self.attention.side
        if padded == self.side or norm.grid is None:
            return codes
        out = codes_buffer(padded**2, x.shape[1])
        out.fill_(int(norm.grid.zero_point))
        out.unflatten(0, (padded, padded))[: self.side, : self.side] = codes.unflatten(0, (self.side, -1))
        return out


class NativeSam3Encoder:
    """The encoder of a packed SAM 3 tracker.

    Args:
        source: of a model that :mod:`saqsam.native.supported` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Sam3Source, kernels: Kernels) -> None:
        build = BlockParts(source, kernels)
        self._side, self._patch = source.grid, int(source.backbone["patch_size"])
        self._projection = build.floats(f"{names.PATCHES}.projection.weight")
        self._positions = _positions(build, self._side)
        self._first_norm = build.norm(names.FIRST_NORM, None)
        self.blocks = [_block(build, source, index) for index in range(len(source.names.blocks))]
        self._scales = [
            [(build.floats(f"{path}.{step}.weight"), build.floats(f"{path}.{step}.bias")) for step in steps]
            for path, steps in zip(names.SCALE_LAYERS, ((0, 2), (0,)), strict=True)
        ]
        readers = (*FEATURE_CONVOLUTIONS, "")
        self._necks = [
            (Convolution(build, first, second), Convolution(build, second, reader))
            for first, second, reader in zip(
                names.NECK_CONVOLUTIONS[::2], names.NECK_CONVOLUTIONS[1::2], readers, strict=True
            )
        ]
        self._levels = Levels(build, self._side)

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """As of :meth:`saqsam.native.sam2_encoder.NativeSam2Encoder.encode`."""
        x = self.start(pixel_values)
        for block in self.blocks:
            x = block.run(x)
        return self.neck(x)

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(1, 3, S, S)`` to tokens ``(g * g, C)``; patches by PyTorch, as in the audited model."""
        found = F.conv2d(pixel_values, self._projection, stride=self._patch)
        return self._first_norm.run((_tokens(found) + self._positions).contiguous())

    def neck(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``(g * g, C)`` to the embedding as of ``encode``. Maps are enlarged by PyTorch."""
        grid = self._side
        tokens = x.unflatten(0, (grid, grid)).permute(2, 0, 1)[None]
        first, second = self._scales[0]
        fine = self._level(0, _tokens(_enlarged(F.gelu(_enlarged(tokens, first)), second)), 4 * grid)
        middle = self._level(1, _tokens(_enlarged(tokens, self._scales[1][0])), 2 * grid)
        return self._levels.joined(self._level(2, x, grid), middle, fine)

    def _level(self, level: int, x: Tensor, side: int) -> Tensor:
        first, second = self._necks[level]
        return second.of_codes(first.of_values(x, side), side)


def _block(build: BlockParts, source: Sam3Source, index: int) -> TurningBlock:
    block, backbone, side = source.names.blocks[index], source.backbone, source.grid
    window, channels = source.window(index), int(backbone["hidden_size"])
    padded = -(-side // window) * window
    windows = Windows(padded, window, int(backbone["num_attention_heads"]), channels)
    query, key, value = block.attention.projections
    values = build.operands(block.attention).value
    return TurningBlock(
        _norms(build, block.norms[0], (query, key, value)),
        (build.layer(query, None), build.layer(key, None), build.layer(value, [Columns(values, channels)])),
        _turns(source, window, padded // window),
        build.attention(block.attention, windows, torch.zeros(3 * channels), None),
        build.rest(block),
        side,
    )


def _norms(build: BlockParts, path: str, readers: tuple[str, str, str]) -> tuple[Norm, Norm, Norm]:
    """One norm rounded for each of three layers; mostly they share a grid."""
    made: dict[tuple[int, float, float], Norm] = {}
    grids = [build.affine(reader) for reader in readers]
    keys = [(grid.bits, float(grid.scale), float(grid.zero_point)) for grid in grids]
    for same, grid in zip(keys, grids, strict=True):
        made.setdefault(same, build.norm(path, grid))
    query, key, value = (made[same] for same in keys)
    return query, key, value


def _turns(source: Sam3Source, window: int, count: int) -> Turns:
    """Of every token of an image of ``count * count`` windows."""
    angles = (x[0].unflatten(0, (window, window)) for x in source.angles(window))
    cosine, sine = (x.repeat(count, count, 1).flatten(0, 1)[:, None] for x in angles)
    return Turns(cosine, sine)


def _positions(build: BlockParts, grid: int) -> Tensor:
    """``(g * g, C)``: a smaller table repeated, and cut where it reaches over the grid."""
    table = build.floats(names.POSITIONS)[0]
    side = math.isqrt(len(table))
    times = -(-grid // side)
    square: Tensor = table.unflatten(0, (side, side))
    return square.repeat(times, times, 1)[:grid, :grid].flatten(0, 1)


def _cropped(codes: Tensor, padded: int, side: int) -> Tensor:
    """Rows of tokens within the image."""
    out = codes_buffer(side**2, codes.shape[1])
    out.unflatten(0, (side, side)).copy_(codes.unflatten(0, (padded, padded))[:side, :side])
    return out


def _enlarged(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    """Transposed convolution, 2x2 with stride 2: ``(1, D, h, w)`` to ``(1, D / 2, 2h, 2w)``."""
    return F.conv_transpose2d(x, *layer, stride=2)


def _tokens(x: Tensor) -> Tensor:
    """``(1, C, h, w)`` to ``(h * w, C)``."""
    return x.flatten(2).transpose(1, 2)[0]
