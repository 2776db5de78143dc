"""SAM 2's image encoder as a graph: Hiera, the neck, and the decoder's two convolutions of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saqsam.families import sam2_names as names
from saqsam.graphs.encoder import LARGEST_MAP
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Portable
from saqsam.graphs.sam2_names import FINE, MAIN, MIDDLE
from saqsam.graphs.sam2_source import HieraBlock, Sam2Source
from saqsam.graphs.source import Source
from saqsam.graphs.windows import unwindowed, windows

_PATCH_SIDE, _PATCH_BORDER = 7, 3
_CUBIC = -0.75
"""Of PyTorch's bicubic interpolation."""


def sam2_encoder_graph(graph: Graph, source: Sam2Source, arithmetic: Portable) -> None:
    """Write the image encoder into ``graph``.

    Input ``image (B, 3, S, S)`` float32, resized to a square and normalised. Outputs:
    ``high_res_feats_0 (B, C/8, 4g, 4g)``, ``high_res_feats_1 (B, C/4, 2g, 2g)`` and ``image_embed
    (B, C, g, g)``.
    """
    writer = Sam2EncoderWriter(graph, source, arithmetic)
    side = source.image_size
    x = writer.start(graph.input("image", ("batch", 3, side, side)))
    state = list[str]()
    for index, block in enumerate(source.blocks):
        x = writer.block(x, index)
        if block.ends:
            state.append(x)
    level_outputs(graph, source, writer.levels(*state))


def level_outputs(graph: Graph, source: Source, levels: tuple[str, str, str]) -> None:
    """Declare the levels of an embedding, finest first."""
    width, grid = int(source.vision["fpn_hidden_size"]), source.grid
    shapes = ((width // 8, 4 * grid), (width // 4, 2 * grid), (width, grid))
    for name, level, (channels, length) in zip((FINE, MIDDLE, MAIN), levels, shapes, strict=True):
        graph.output(name, level, ("batch", channels, length, length))


@dataclass(frozen=True)
class Sam2EncoderWriter:
    """The parts of an image encoder, each written into ``graph`` when it is called."""

    graph: Graph
    source: Sam2Source
    arithmetic: Portable

    def parameter(self, name: str) -> str:
        """A float parameter."""
        return self.source.parameter(self.graph, name)

    def start(self, images: str) -> str:
        """``(B, 3, S, S)`` pixels to ``(B, S/4, S/4, C)`` tokens with their positions added."""
        graph = self.graph
        graph.scope = names.PATCHES
        weight, bias = (self.parameter(f"{names.PATCHES}.projection.{kind}") for kind in ("weight", "bias"))
        found = graph.add(
            "Conv",
            images,
            weight,
            bias,
            strides=[4, 4],
            pads=[_PATCH_BORDER] * 4,
            kernel_shape=[_PATCH_SIDE, _PATCH_SIDE],
        )
        return graph.add("Add", graph.transpose(found, 0, 2, 3, 1), self.positions())

    def positions(self) -> str:
        """``(1, S/4, S/4, C)``: a coarse table enlarged, and that of one window repeated."""
        graph, side = self.graph, self.source.image_size // 4
        coarse, window = names.POSITIONS
        large = graph.add(
            "Resize",
            self.parameter(coarse),
            "",
            "",
            graph.shape(side, side),
            axes=[2, 3],
            mode="cubic",
            cubic_coeff_a=_CUBIC,
            coordinate_transformation_mode="half_pixel",
        )
        times = side // self.source.array(window).shape[-1]
        tiled = graph.add("Tile", self.parameter(window), graph.shape(1, 1, times, times))
        return graph.transpose(graph.add("Add", large, tiled), 0, 2, 3, 1)

    def norm(self, x: str, path: str) -> str:
        """Normalisation over the last side."""
        weight, bias = (self.parameter(f"{path}.{kind}") for kind in ("weight", "bias"))
        epsilon = float(self.source.backbone["layer_norm_eps"])
        return self.graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def block(self, x: str, index: int) -> str:
        """One block, ``(B, g, g, C)`` to the same, or to half the sides and another width."""
        block = self.source.blocks[index]
        self.graph.scope = block.names.path
        normed = self.norm(x, block.names.norms[0])
        if block.pools:
            x = self._pooled(self.arithmetic.linear(normed, block.names.projection), block.grid, block.width)
        x = self.graph.add("Add", x, self.attention(normed, block))
        self.graph.scope = f"{block.names.path}.mlp"
        hidden = self.arithmetic.linear(self.norm(x, block.names.norms[1]), block.names.mlp_in)
        hidden = self.graph.add("Gelu", hidden)
        return self.graph.add("Add", x, self.arithmetic.linear(hidden, block.names.mlp_out))

    def _pooled(self, x: str, side: int, width: int) -> str:
        """The maximum of each 2x2 tokens: ``(n, side, side, C)`` to ``(n, side/2, side/2, C)``."""
        graph, half = self.graph, side // 2
        x = graph.reshape(x, -1, 2, side * width)
        x = graph.add("ReduceMax", x, graph.shape(1), keepdims=0)
        x = graph.add("ReduceMax", graph.reshape(x, -1, 2, width), graph.shape(1), keepdims=0)
        return graph.reshape(x, -1, half, half, width)

    def attention(self, x: str, block: HieraBlock) -> str:
        """Attention within windows: ``(B, g, g, C)`` to what is added to the residual.

        Tokens are rounded before they are padded, and projected back without the padding.
        """
        graph, path = self.graph, block.names.attention.path
        graph.scope = path
        side, heads, width, deep = block.window, block.heads, block.width, block.width // block.heads
        (fused,) = block.names.attention.projections
        projected = self.arithmetic.linear(
            x, fused, lambda y, zero: windows(graph, y, zero, block.grid, side, block.channels)
        )
        query, key, value = graph.split(projected, 3, 3)
        pool = 2 if block.pools else 1
        if block.pools:
            query = self._pooled(query, side, width)
        query = graph.transpose(graph.reshape(query, -1, (side // pool) ** 2, heads, deep), 0, 2, 1, 3)
        key = graph.transpose(graph.reshape(key, -1, side * side, heads, deep), 0, 2, 3, 1)
        value = graph.transpose(graph.reshape(value, -1, side * side, heads, deep), 0, 2, 1, 3)
        parts = heads if heads * side**4 // pool**2 > LARGEST_MAP else 1
        outputs = [
            self.arithmetic.weighted(self.arithmetic.scores(q, k, path, deep**-0.5), v, path)
            for q, k, v in zip(*(graph.split(whole, 1, parts) for whole in (query, key, value)), strict=True)
        ]
        output = graph.add("Concat", *outputs, axis=1) if parts > 1 else outputs[0]
        joined = unwindowed(graph, output, block.grid // pool, side // pool, heads, width)
        return self.arithmetic.linear(joined, block.names.attention.output)

    def finish(self, state: Sequence[str]) -> None:
        """Everything after the last block, of its tokens and those of the earlier stages."""
        coarsest, fine, middle, coarse = state
        self.levels(fine, middle, coarse, coarsest)

    def levels(self, fine: str, middle: str, coarse: str, coarsest: str) -> tuple[str, str, str]:
        """The levels of the embedding ``(B, c, h, h)``, finest first, of the outputs of the four stages."""
        graph, grid = self.graph, self.source.grid
        graph.scope = names.NECK
        # From the coarsest stage to the finest, as the neck's convolutions are.
        coarsest_path, coarse_path, middle_path, fine_path = names.NECK_CONVOLUTIONS
        top, main = (
            self.arithmetic.linear(x, path) for x, path in ((coarsest, coarsest_path), (coarse, coarse_path))
        )
        second, first = (
            self.arithmetic.linear_to_round(x, path) for x, path in ((middle, middle_path), (fine, fine_path))
        )
        width = int(self.source.vision["fpn_hidden_size"])
        top = graph.reshape(top, -1, grid // 2, 1, grid // 2, 1, width)
        top = graph.reshape(graph.add("Expand", top, graph.shape(1, 1, 2, 1, 2, 1)), -1, grid, grid, width)
        constant = graph.reshape(self.parameter(names.NO_MEMORY), 1, 1, 1, width)
        main = graph.add("Add", graph.add("Add", main, top), constant)
        features = (
            self.arithmetic.linear(x, path)
            for x, path in zip((first, second), names.FEATURE_CONVOLUTIONS, strict=True)
        )
        found = [graph.transpose(x, 0, 3, 1, 2) for x in (*features, main)]
        return found[0], found[1], found[2]
