"""The image encoder as a graph: patches, blocks with windowed or global attention, neck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saqsam.families.sam_names import EncoderBlockNames, SamNames
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Portable
from saqsam.graphs.source import EARLY, Source
from saqsam.graphs.windows import unwindowed, windows

LARGEST_MAP = 1 << 25
"""Elements of an attention map held at once; larger ones are computed head by head, which is exact."""


def encoder_graph(graph: Graph, source: Source, arithmetic: Portable) -> None:
    """Write the image encoder into ``graph``.

    Input ``images`` ``(B, 3, S, S)`` float32, preprocessed as for SAM (normalised, padded with zeros on
    the right and below); output ``image_embeddings`` ``(B, C, g, g)`` float32, of SAM-HQ also
    ``interm_embeddings`` ``(1, B, g, g, D)``, the tokens after the first block with global attention.
    """
    side = source.image_size
    images = graph.input("images", ("batch", int(source.vision["num_channels"]), side, side))
    writer = EncoderWriter(graph, source, arithmetic)
    x = writer.patches(images)
    early = ""
    for index in range(int(source.vision["num_hidden_layers"])):
        x = writer.block(x, index)
        early = x if index == source.early_block else early
    embeddings = writer.neck(x)
    shape = ("batch", int(source.vision["output_channels"]), source.grid, source.grid)
    graph.output("image_embeddings", embeddings, shape)
    if early:
        width = int(source.vision["hidden_size"])
        graph.scope = "early"
        early = graph.add("Unsqueeze", early, graph.shape(0))
        graph.output(EARLY, early, (1, "batch", source.grid, source.grid, width))


@dataclass(frozen=True)
class EncoderWriter:
    """The parts of an image encoder, each written into ``graph`` when it is called."""

    graph: Graph
    source: Source
    arithmetic: Portable

    @property
    def names(self) -> SamNames:
        """Where the parameters are in the packed file."""
        return self.source.names

    def patches(self, images: str) -> str:
        """``(B, 3, S, S)`` pixels to ``(B, g, g, C)`` tokens with their positions added."""
        self.graph.scope = self.names.patches
        weight, bias = (
            self.source.parameter(self.graph, f"{self.names.projection}.{kind}")
            for kind in ("weight", "bias")
        )
        patch = int(self.source.vision["patch_size"])
        found = self.graph.add(
            "Conv", images, weight, bias, strides=[patch, patch], kernel_shape=[patch, patch]
        )
        tokens = self.graph.transpose(found, 0, 2, 3, 1)
        if not self.source.vision["use_abs_pos"]:
            return tokens
        return self.graph.add("Add", tokens, self.source.parameter(self.graph, self.names.positions))

    def block(self, x: str, index: int) -> str:
        """One transformer block, ``(B, g, g, C)`` to the same."""
        names = self.names.blocks[index]
        self.graph.scope = names.attention.path
        attended = self.attention(self.norm(x, names.norms[0]), names, self.source.window(index))
        x = self.graph.add("Add", x, attended)
        self.graph.scope = names.mlp
        hidden = self.arithmetic.linear(self.norm(x, names.norms[1]), names.mlp_in)
        return self.graph.add("Add", x, self.arithmetic.linear(self.graph.add("Gelu", hidden), names.mlp_out))

    def norm(self, x: str, path: str, epsilon: float | None = None) -> str:
        """Normalisation over the last side."""
        weight, bias = (self.source.parameter(self.graph, f"{path}.{kind}") for kind in ("weight", "bias"))
        epsilon = float(self.source.backbone["layer_norm_eps"]) if epsilon is None else epsilon
        return self.graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def attention(self, x: str, names: EncoderBlockNames, side: int) -> str:
        """Attention within windows of ``side * side`` tokens: ``(B, g, g, C)`` to the same.

        Tokens are rounded before they are padded, and projected back without the padding.
        """
        graph, width = self.graph, int(self.source.backbone["hidden_size"])
        (fused,) = names.attention.projections
        projected = self.arithmetic.linear(
            x, fused, lambda y, zero: windows(graph, y, zero, self.source.grid, side, width)
        )
        query, key, value = graph.split(projected, 3, 3)
        output = self.gathered(query, key, value, names, side)
        joined = unwindowed(graph, output, self.source.grid, side, self.heads, width)
        return self.arithmetic.linear(joined, names.attention.output)

    @property
    def heads(self) -> int:
        """Of each attention."""
        return int(self.source.backbone["num_attention_heads"])

    def gathered(self, query: str, key: str, value: str, names: EncoderBlockNames, side: int) -> str:
        """What is between the projections: ``(n, ..., C)`` of ``side * side`` tokens to ``(n, h, N, d)``."""
        graph, tokens, heads = self.graph, side * side, self.heads
        width = int(self.source.backbone["hidden_size"])
        query, key, value = (
            graph.reshape(part, -1, tokens, heads, width // heads) for part in (query, key, value)
        )
        query, value = (graph.transpose(part, 0, 2, 1, 3) for part in (query, value))
        key = graph.transpose(key, 0, 2, 3, 1)
        count = -(-self.source.grid // side)  # of windows along a side
        by_head = heads * (count * tokens) ** 2 > LARGEST_MAP or self._pieces(side) > 1
        parts = heads if by_head else 1
        split = [graph.split(whole, 1, parts) for whole in (query, key, value)]
        outputs = [self._attend(q, k, v, names, side, heads // parts) for q, k, v in zip(*split, strict=True)]
        return graph.add("Concat", *outputs, axis=1) if parts > 1 else outputs[0]

    def _attend(
        self, query: str, key: str, value: str, names: EncoderBlockNames, side: int, heads: int
    ) -> str:
        """``query, value (B, h, N, d)`` and ``key (B, h, d, N)`` -> ``(B, h, N, d)``."""
        graph, path = self.graph, names.attention.path
        scale = (int(self.source.backbone["hidden_size"]) // self.heads) ** -0.5
        pieces = self._pieces(side)
        placed = (
            self._positions(query, names, side, pieces) if self.source.backbone.get("use_rel_pos") else []
        )
        outputs = []
        for place, rows in enumerate(graph.split(query, 2, pieces)):
            scores = self.arithmetic.scores(rows, key, path, scale)
            if placed:
                bias = graph.reshape(graph.add("Add", *placed[place]), -1, heads, side**2 // pieces, side**2)
                scores = graph.add("Add", scores, bias)
            outputs.append(self.arithmetic.weighted(scores, value, path))
        return graph.add("Concat", *outputs, axis=2) if pieces > 1 else outputs[0]

    def _pieces(self, side: int) -> int:
        """Into how many groups of rows of tokens a head's map is cut; those of windows are whole."""
        largest = self.arithmetic.largest_piece
        if largest is None or side != self.source.grid:
            return 1
        return next((n for n in range(1, side) if side % n == 0 and side**4 // n <= largest), side)

    def _positions(
        self, query: str, names: EncoderBlockNames, side: int, pieces: int
    ) -> list[tuple[str, str]]:
        """Relative-position scores of ``query (B, h, N, d)``, of each piece two that are added up:
        ``(maps, y, x, key y, 1)`` and ``(maps, y, x, 1, key x)``."""
        graph = self.graph
        if self.source.packed.recipe.get("rel_pos_query") != "float":
            query = self.arithmetic.quantize(query, f"{names.attention.path}:query")
        width = int(self.source.backbone["hidden_size"]) // self.heads
        rows = graph.reshape(query, -1, side, side, width)  # (maps, y, x, d)
        by_row = graph.add("MatMul", rows, self._table(names.tables[0], side))
        columns = graph.transpose(rows, 0, 2, 1, 3)  # (maps, x, y, d)
        by_column = graph.add("MatMul", columns, self._table(names.tables[1], side))
        by_column = graph.transpose(by_column, 0, 2, 1, 3)
        both = (
            graph.add("Unsqueeze", by_row, graph.shape(4)),
            graph.add("Unsqueeze", by_column, graph.shape(3)),
        )
        return list(zip(*(graph.split(x, 1, pieces) for x in both), strict=True))

    def _table(self, name: str, side: int) -> str:
        """``(query, d, key)`` vectors for each pair of positions along one axis."""
        offsets = np.arange(side)[:, None] - np.arange(side)[None, :] + side - 1
        table = self.graph.add(
            "Gather", self.source.parameter(self.graph, name), self.graph.constant(offsets, np.int64), axis=0
        )
        return self.graph.transpose(table, 0, 2, 1)

    def finish(self, state: Sequence[str]) -> None:
        """Everything after the last block, of the tokens and whatever earlier blocks left."""
        self.neck(state[0])

    def neck(self, x: str) -> str:
        """``(B, g, g, C)`` tokens to the ``(B, channels, g, g)`` embedding."""
        self.graph.scope = self.names.neck
        (first, second), norms = self.names.neck_convolutions, self.names.neck_norms
        x = self.norm(self.arithmetic.linear(x, first), norms[0], 1e-6)
        x = self.norm(self.arithmetic.convolution(x, second, self.source.grid), norms[1], 1e-6)
        return self.graph.transpose(x, 0, 3, 1, 2)
