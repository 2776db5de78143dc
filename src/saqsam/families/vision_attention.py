"""The image encoder's attention of SAM 1, windowed or global, with quantizers."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention

from saqsam.families.attention_pieces import Added, Pieces, Positions
from saqsam.modules.attention import AttentionQuantizers, through


class QuantVisionAttention(SamVisionAttention):
    """The image encoder's attention, relative positions included.

    Args:
        original: float attention; its layers and tables are taken over, not copied.
        quantizers: for query, key, value and map.
        float_rel_pos_query: multiply the relative-position tables with the unquantized query, as the
            released SAQ-SAM code does; ``False`` uses the quantized one, as PTQ4SAM does.
    """

    def __init__(
        self, original: SamVisionAttention, quantizers: AttentionQuantizers, *, float_rel_pos_query: bool
    ) -> None:
        nn.Module.__init__(self)
        self.num_attention_heads, self.scale = original.num_attention_heads, original.scale
        self.dropout, self.use_rel_pos = original.dropout, original.use_rel_pos
        self.qkv, self.proj = original.qkv, original.proj
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = original.rel_pos_h, original.rel_pos_w
        self.quantizers = quantizers
        self.float_rel_pos_query = float_rel_pos_query

    @property
    def projection_layers(self) -> tuple[nn.Module, ...]:
        """The layer whose output is queries, keys and values side by side."""
        return (self.qkv,)

    @property
    def output_layer(self) -> nn.Module:
        """What reads the gathered values."""
        return cast(nn.Module, self.proj)

    @property
    def position_tables(self) -> tuple[Tensor, ...]:
        """``(2 * side - 1, d)`` of rows and columns that queries meet, the same for all heads; or none."""
        return (self.rel_pos_h, self.rel_pos_w) if self.use_rel_pos else ()

    def forward(  # type: ignore[override]  # the map is not returned: it is never held whole
        self, hidden_states: Tensor, output_attentions: bool | None = None
    ) -> tuple[Tensor, None]:
        """``(B, H, W, C) -> (B, H, W, C)`` and ``None`` in place of the map."""
        del output_attentions
        return self.some_rows(hidden_states, slice(None)), None

    def some_rows(self, hidden_states: Tensor, rows: slice) -> Tensor:
        """Some rows of what ``forward`` gives, without the attention of others' queries.

        ``(B, H, W, C) -> (B, rows, W, C)``; keys and values are those of all tokens.
        """
        return cast(Tensor, self.proj(self.attend(self.qkv(hidden_states), rows)))

    def attend(self, qkv: Tensor, rows: slice = slice(None)) -> Tensor:
        """What is between the two projections: ``(B, H, W, 3 * C) -> (B, rows, W, C)``."""
        batch, height, width, _ = qkv.shape
        heads = self.num_attention_heads
        parts = qkv.reshape(batch, height, width, 3, heads, -1)
        float_query, key, value = parts.permute(3, 0, 4, 1, 2, 5).unbind(0)
        float_query = float_query[:, :, rows].flatten(2, 3).flatten(0, 1)
        key, value = (part.flatten(2, 3).flatten(0, 1) for part in (key, value))
        query = through(self.quantizers.query, float_query)
        key = through(self.quantizers.key, key)
        value = through(self.quantizers.value, value)
        positions = None
        if self.use_rel_pos:
            located = float_query if self.float_rel_pos_query else query
            positions = Positions(located, partial(self._positions, (height, width), rows))
        output = Pieces(self.quantizers, self.scale).attend(query, key, value, positions)
        output = output.view(batch, heads, -1, width, output.shape[-1]).permute(0, 2, 3, 1, 4)
        return output.flatten(3)

    def _positions(self, size: tuple[int, int], rows: slice, query: Tensor) -> Added:
        """What queries ``(maps, rows * W, d)`` add to the scores of keys by their positions.

        Each query meets a vector for the rows and one for the columns between it and a key; the tables are
        those of transformers' own attention.
        """
        height, width = size
        down: Tensor = self.get_rel_pos(height, height, self.rel_pos_h)[rows]
        across: Tensor = self.get_rel_pos(width, width, self.rel_pos_w)
        grid = query.unflatten(1, (len(down), width))
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, down)
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, across)
        return by_row.flatten(1, 2), by_column.flatten(1, 2)
