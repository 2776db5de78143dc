"""The image encoder's attention of SAM 2 (Hiera), windowed or global, with quantizers.

Where a stage begins, queries are max-pooled two by two between their projection and the product with the
keys. Rounding is monotone, so the maximum of rounded values is the rounded maximum; queries are quantized
after it, when there is a quarter of them.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention

from saqsam.families.attention_pieces import Pieces, by_head
from saqsam.modules.attention import AttentionQuantizers, through


class QuantHieraAttention(nn.Module):
    """With the calling convention of ``transformers``' ``Sam2MultiScaleAttention``.

    Args:
        original: float attention; its layers are taken over, not copied.
        quantizers: for query, key, value and map.
    """

    def __init__(self, original: Sam2MultiScaleAttention, quantizers: AttentionQuantizers) -> None:
        super().__init__()
        self.num_attention_heads, self.scale = original.num_attention_heads, original.scale
        self.query_stride = original.query_stride
        self.qkv, self.proj = original.qkv, original.proj
        self.quantizers = quantizers

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
        """None: positions are added to the tokens before the first block."""
        return ()

    def forward(self, hidden_states: Tensor, **unused: Any) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C')``, or half as many rows and columns where queries are pooled."""
        del unused
        return self.some_rows(hidden_states, slice(None))

    def some_rows(self, hidden_states: Tensor, rows: slice) -> Tensor:
        """Some rows of what ``forward`` gives, without the attention of others' queries.

        ``(B, H, W, C) -> (B, rows, W, C')``; keys and values are those of all tokens.
        """
        return cast(Tensor, self.proj(self.attend(self.qkv(hidden_states), rows)))

    def attend(self, qkv: Tensor, rows: slice = slice(None)) -> Tensor:
        """What is between the two projections: ``(B, H, W, 3 * C) -> (B, rows, W, C)``, of pooled queries."""
        batch = len(qkv)
        heads = self.num_attention_heads
        query, key, value = qkv.unflatten(-1, (3, -1)).unbind(3)
        if self.query_stride:
            query = F.max_pool2d(query.permute(0, 3, 1, 2), self.query_stride, self.query_stride)
            query = query.permute(0, 2, 3, 1)
        query = query[:, rows]
        height, width = query.shape[1:3]
        quantizers = self.quantizers
        query = through(quantizers.query, by_head(query, heads))
        key = through(quantizers.key, by_head(key, heads))
        value = through(quantizers.value, by_head(value, heads))
        gathered = Pieces(quantizers, self.scale).attend(query, key, value)
        gathered = gathered.unflatten(0, (batch, heads)).transpose(1, 2)
        return cast(Tensor, gathered.reshape(batch, height, width, -1))
