"""The image encoder's attention of SAM 3, windowed or global, with quantizers.

Queries and keys are turned by their positions (rotary embedding, Su et al. 2021, in two dimensions) between
their projections and the product. They are quantized after that, because that is what is multiplied.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import Sam3ViTConfig
from transformers.models.sam3.modeling_sam3 import (
    Sam3ViTLayer,
    Sam3ViTRoPEAttention,
    Sam3ViTRotaryEmbedding,
    rotate_pairwise,
)

from saqsam.families.attention_pieces import Pieces, by_head
from saqsam.modules.attention import AttentionQuantizers, through

Angles = tuple[Tensor, Tensor]
"""Cosine and sine for each position and channel of a head, ``(1, H * W, d)`` each."""


class QuantRotaryAttention(nn.Module):
    """With the calling convention of ``transformers``' ``Sam3ViTRoPEAttention``.

    Args:
        original: float attention; its layers are taken over, not copied.
        quantizers: for query, key, value and map.
    """

    def __init__(self, original: Sam3ViTRoPEAttention, quantizers: AttentionQuantizers) -> None:
        super().__init__()
        self.num_attention_heads, self.scaling = original.num_attention_heads, original.scaling
        self.q_proj, self.k_proj, self.v_proj = original.q_proj, original.k_proj, original.v_proj
        self.o_proj = original.o_proj
        self.quantizers = quantizers

    @property
    def projection_layers(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are queries and keys before they are turned, and values."""
        return self.q_proj, self.k_proj, self.v_proj

    @property
    def output_layer(self) -> nn.Module:
        """What reads the gathered values."""
        return cast(nn.Module, self.o_proj)

    @property
    def position_tables(self) -> tuple[Tensor, ...]:
        """None that queries are multiplied with: positions turn them."""
        return ()

    def forward(
        self, hidden_states: Tensor, position_embeddings: Angles, **unused: Any
    ) -> tuple[Tensor, None]:
        """``(B, H, W, C) -> (B, H, W, C)`` and ``None`` in place of the map, which is never held whole."""
        del unused
        return self.some_rows(hidden_states, slice(None), position_embeddings), None

    def some_rows(self, hidden_states: Tensor, rows: slice, angles: Angles) -> Tensor:
        """Some rows of what ``forward`` gives, without the attention of others' queries.

        ``(B, H, W, C) -> (B, rows, W, C)``; keys and values are those of all tokens.
        """
        batch, height, width, _ = hidden_states.shape
        asked = hidden_states[:, rows]
        heads, quantizers = self.num_attention_heads, self.quantizers
        own = cast(Angles, tuple(x.unflatten(1, (height, width))[:, rows].flatten(1, 2) for x in angles))
        query = _turned(by_head(self.q_proj(asked), heads), own)
        key = _turned(by_head(self.k_proj(hidden_states), heads), angles)
        query, key = through(quantizers.query, query), through(quantizers.key, key)
        value = through(quantizers.value, by_head(self.v_proj(hidden_states), heads))
        gathered = Pieces(quantizers, self.scaling).attend(query, key, value)
        gathered = gathered.unflatten(0, (batch, heads)).transpose(1, 2)
        return cast(Tensor, self.o_proj(gathered.reshape(batch, -1, width, heads * gathered.shape[-1])))


def angles_of(backbone: Sam3ViTConfig, window: int) -> Angles:
    """Of a block whose windows have sides of ``window`` tokens, 0 where attention is global."""
    positions: Tensor = Sam3ViTLayer.precompute_positions(backbone, window)
    return cast(Angles, Sam3ViTRotaryEmbedding(backbone)(positions, positions))


def _turned(x: Tensor, angles: Angles) -> Tensor:
    """``(B * heads, H * W, d)`` with each pair of channels turned, in float32 as ``transformers`` does it."""
    cosine, sine = angles
    wide = x.float()
    return cast(Tensor, wide * cosine + rotate_pairwise(wide) * sine).type_as(x)
