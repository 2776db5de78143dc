"""The image encoder's attention of SAM 1, windowed or global, with quantizers.

Maps are worked through in pieces: the map of a global block is never held whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention

from saqsam.modules.attention import AttentionQuantizers, through
from saqsam.modules.quantizer import Stage
from saqsam.modules.sampling import SAMPLED_MAPS, SAMPLED_QUERIES, spread

_CHUNK = 1 << 25
"""Elements of the attention map held at once. Maps of different heads and windows do not touch each
other, so splitting them is exact, and the 805 MB map of a global SAM-B block is never materialised."""
_CACHED = 1 << 20
"""Elements of the map that are quantized together on a CPU: four megabytes, which stay in its cache."""


Positions = Callable[[slice | Tensor], Tensor | None]
"""Relative-position scores ``(maps, N, M)`` of the maps asked for, or ``None``."""


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
        position_query = float_query if self.float_rel_pos_query else query
        positions = partial(self._positions, position_query, (height, width), rows)
        attend = self._observe_rows if self._samples_rows() else self._attend
        output = attend(query, key, value, positions)
        output = output.view(batch, heads, -1, width, output.shape[-1]).permute(0, 2, 3, 1, 4)
        return output.flatten(3)

    def _samples_rows(self) -> bool:
        """While a grid is chosen on a few rows of the map, SDPA does the rest."""
        quantizer = self.quantizers.attention
        return quantizer is None or (quantizer.stage is Stage.OBSERVE and quantizer.kind.rows_suffice)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
        """All maps, a bounded number at a time: ``(maps, N, d) -> (maps, N, d)``."""
        per_chunk = max(1, _together(query) // (query.shape[1] * key.shape[1]))
        outputs = []
        for start in range(0, len(query), per_chunk):
            chunk = slice(start, start + per_chunk)
            outputs.append(self._attend_rows(query[chunk], key[chunk], value[chunk], positions(chunk)))
        return torch.cat(outputs)

    def _attend_rows(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """A few maps, a bounded number of their rows at a time: rows do not touch each other either."""
        maps, tokens, keys = len(query), query.shape[1], key.shape[1]
        outputs = []
        rows = max(1, _together(query) // (maps * keys))
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            scores = self.quantizers.scores(query[:, part], key, self.scale)
            if bias is not None:
                scores += bias[:, part]
            probabilities = torch.softmax(scores, dim=-1)
            if self.quantizers.attention is not None:
                probabilities = self.quantizers.attention(probabilities, value)
            outputs.append(self.quantizers.weighted(probabilities, value))
        return torch.cat(outputs, dim=1)

    def _observe_rows(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
        """Float output by fused attention; the observer sees an even sample of the map's rows."""
        if self.quantizers.attention is not None:
            chosen = spread(query.shape[0], SAMPLED_MAPS, query.device)
            some = spread(query.shape[1], SAMPLED_QUERIES, query.device)
            scores = (query[chosen][:, some] * self.scale) @ key[chosen].transpose(-2, -1)
            bias = positions(chosen)
            if bias is not None:
                scores += bias[:, some]
            self.quantizers.attention(torch.softmax(scores, dim=-1), value[chosen])
        outputs = []
        per_chunk = max(1, _CHUNK // (query.shape[1] * key.shape[1]))
        for start in range(0, query.shape[0], per_chunk):
            chunk = slice(start, start + per_chunk)
            bias = positions(chunk)
            # Only four-dimensional operands reach PyTorch's fused kernel.
            q, k, v = (x[chunk][None] for x in (query, key, value))
            mask = None if bias is None else bias[None]
            outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0])
        return torch.cat(outputs)

    def _positions(
        self, query: Tensor, size: tuple[int, int], rows: slice, maps: slice | Tensor
    ) -> Tensor | None:
        """Relative-position scores of ``query[maps]``, ``(maps, rows * W, d)``: ``(maps, rows * W, H * W)``.

        Each query meets a vector for the rows and one for the columns between it and a key; the tables are
        those of transformers' own attention. ``None`` where the model has none.
        """
        if not self.use_rel_pos:
            return None
        height, width = size
        down: Tensor = self.get_rel_pos(height, height, self.rel_pos_h)[rows]
        across: Tensor = self.get_rel_pos(width, width, self.rel_pos_w)
        grid = query[maps].unflatten(1, (len(down), width))
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, down)
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, across)
        scores = by_row[..., :, None] + by_column[..., None, :]
        return scores.flatten(3, 4).flatten(1, 2)


def _together(x: Tensor) -> int:
    """Elements of the map to quantize together: a GPU wants few large operations."""
    return _CACHED if x.device.type == "cpu" else _CHUNK
