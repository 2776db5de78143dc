"""SAM 3's image encoder as a graph: a transformer with rotary positions, and a neck of three levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from saqsam.families import sam3_names as names
from saqsam.families.sam2_names import FEATURE_CONVOLUTIONS, NECK, NO_MEMORY
from saqsam.families.sam_names import EncoderBlockNames
from saqsam.graphs.encoder import EncoderWriter
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Portable
from saqsam.graphs.sam2_encoder import level_outputs
from saqsam.graphs.sam3_source import Sam3Source
from saqsam.graphs.windows import unwindowed, windows


def sam3_encoder_graph(graph: Graph, source: Sam3Source, arithmetic: Portable) -> None:
    """Write the image encoder into ``graph``; input and outputs as of
    :func:`saqsam.graphs.sam2_encoder.sam2_encoder_graph`."""
    writer, side = Sam3EncoderWriter(graph, source, arithmetic), source.image_size
    x = writer.patches(graph.input("image", ("batch", 3, side, side)))
    for index in range(len(source.names.blocks)):
        x = writer.block(x, index)
    level_outputs(graph, source, writer.levels(x))


@dataclass(frozen=True)
class Sam3EncoderWriter(EncoderWriter):
    """What differs from SAM's: positions that turn queries and keys, three projections, and the neck."""

    source: Sam3Source
    turns: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Names of cosines and sines ``(N, 1, d)`` by the side of a window."""

    def patches(self, images: str) -> str:
        """``(B, 3, S, S)`` pixels to ``(B, g, g, C)`` tokens with their positions added, normalised."""
        graph = self.graph
        graph.scope = names.PATCHES
        weight = self.source.parameter(graph, f"{names.PATCHES}.projection.weight")
        patch = [int(self.source.backbone["patch_size"])] * 2
        found = graph.add("Conv", images, weight, strides=patch, kernel_shape=patch)
        tokens = graph.add("Add", graph.transpose(found, 0, 2, 3, 1), self.positions())
        return self.norm(tokens, names.FIRST_NORM)

    def positions(self) -> str:
        """``(1, g, g, C)``: a smaller table repeated, and cut where it reaches over the grid."""
        graph, grid = self.graph, self.source.grid
        side = math.isqrt(self.source.array(names.POSITIONS).shape[1])
        times = -(-grid // side)
        table = graph.reshape(self.source.parameter(graph, names.POSITIONS), 1, side, side, -1)
        tiled = graph.add("Tile", table, graph.shape(1, times, times, 1))
        return graph.slice(graph.slice(tiled, 1, 0, grid), 2, 0, grid)

    def attention(self, x: str, names: EncoderBlockNames, side: int) -> str:
        """Attention within windows of ``side * side`` tokens: ``(B, g, g, C)`` to the same.

        As in the model, windows are padded before tokens are rounded and projected.
        """
        graph, grid, width = self.graph, self.source.grid, int(self.source.backbone["hidden_size"])
        x = windows(graph, x, "", grid, side, width)
        *turned, plain = names.attention.projections
        query, key = (self.turned(self.arithmetic.linear(x, path), side) for path in turned)
        value = self.arithmetic.linear_to_round(x, plain)
        output = self.gathered(query, key, value, names, side)
        joined = unwindowed(graph, output, side, side, self.heads, width)
        added = graph.reshape(
            self.arithmetic.linear(joined, names.attention.output), -1, 1, side * side, width
        )
        return unwindowed(graph, added, grid, side, 1, width)

    def turned(self, x: str, side: int) -> str:
        """``(n, side, side, C)`` to ``(n, side * side, heads, d)``, pairs of channels turned."""
        graph, deep = self.graph, int(self.source.backbone["hidden_size"]) // self.heads
        x = graph.reshape(x, -1, side * side, self.heads, deep)
        cosine, sine = self.angles(side)
        swapped = graph.add("Gather", x, graph.constant(np.arange(deep) ^ 1, np.int64), axis=3)
        return graph.add("Add", graph.add("Mul", x, cosine), graph.add("Mul", swapped, sine))

    def angles(self, side: int) -> tuple[str, str]:
        """See ``turns``; a sine has the sign with which the other channel of its pair is added."""
        if side not in self.turns:
            cosine, sine = (x.numpy().swapaxes(0, 1) for x in self.source.angles(side))
            sine = sine * np.where(np.arange(sine.shape[-1]) % 2, 1, -1).astype(sine.dtype)
            self.turns[side] = self.graph.constant(cosine), self.graph.constant(sine)
        return self.turns[side]

    def finish(self, state: Sequence[str]) -> None:
        """Everything after the last block."""
        self.levels(state[0])

    def levels(self, x: str) -> tuple[str, str, str]:
        """The levels of the embedding ``(B, c, h, h)``, finest first, of tokens ``(B, g, g, D)``."""
        graph, grid = self.graph, self.source.grid
        graph.scope = NECK
        tokens = graph.transpose(x, 0, 3, 1, 2)
        fine = self._enlarged(graph.add("Gelu", self._enlarged(tokens, 0, 0)), 0, 2)
        enlarged = [graph.transpose(y, 0, 2, 3, 1) for y in (fine, self._enlarged(tokens, 1, 0))]
        first, second, main = (
            self._level(y, level, side)
            for level, (y, side) in enumerate(zip((*enlarged, x), (4 * grid, 2 * grid, grid), strict=True))
        )
        features = (
            self.arithmetic.linear(y, path)
            for y, path in zip((first, second), FEATURE_CONVOLUTIONS, strict=True)
        )
        constant = graph.reshape(self.source.parameter(graph, NO_MEMORY), 1, 1, 1, -1)
        found = [graph.transpose(y, 0, 3, 1, 2) for y in (*features, graph.add("Add", main, constant))]
        return found[0], found[1], found[2]

    def _enlarged(self, x: str, level: int, step: int) -> str:
        """Transposed convolution, 2x2 with stride 2: ``(B, D, h, w)`` to ``(B, D / 2, 2h, 2w)``."""
        path = f"{names.SCALE_LAYERS[level]}.{step}"
        weight, bias = (self.source.parameter(self.graph, f"{path}.{kind}") for kind in ("weight", "bias"))
        return self.graph.add("ConvTranspose", x, weight, bias, strides=[2, 2], kernel_shape=[2, 2])

    def _level(self, x: str, level: int, side: int) -> str:
        """``(B, side, side, D)`` to ``(B, side, side, C)`` by the two convolutions of a level."""
        first, second = names.NECK_CONVOLUTIONS[2 * level : 2 * level + 2]
        return self.arithmetic.convolution(self.arithmetic.linear_to_round(x, first), second, side)
