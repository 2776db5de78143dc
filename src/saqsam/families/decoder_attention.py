"""The mask decoder's attention, with quantizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saqsam.modules.attention import AttentionQuantizers, through


class QuantDecoderAttention(nn.Module):
    """The mask decoder's attention, with the calling convention of ``transformers``' ``SamAttention``.

    Args:
        original: float attention, SAM's or one of the same parts; its projections are taken over, not copied.
        quantizers: for query, key, value and map.
        output: what the family calls the layer that reads the gathered values.
    """

    def __init__(self, original: Any, quantizers: AttentionQuantizers, *, output: str = "out_proj") -> None:
        super().__init__()
        self.num_attention_heads, self.scaling = original.num_attention_heads, original.scaling
        self.q_proj, self.k_proj = original.q_proj, original.k_proj
        self.v_proj, self.output = original.v_proj, output
        setattr(self, output, getattr(original, output))
        self.quantizers = quantizers

    @property
    def projection_layers(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are queries, keys and values."""
        return self.q_proj, self.k_proj, self.v_proj

    @property
    def output_layer(self) -> nn.Module:
        """What reads the gathered values."""
        return self.get_submodule(self.output)

    @property
    def position_tables(self) -> tuple[Tensor, ...]:
        """None: positions are added before the projections."""
        return ()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_similarity: Tensor | None = None,
        **unused: Any,
    ) -> tuple[Tensor, Tensor]:
        """``query (B, P, N_q, C)``, ``key`` and ``value`` ``(B, P, N_k, C)`` -> output ``(B, P, N_q, C)`` and
        the map that was used, ``(B*P, heads, N_q, N_k)``."""
        del unused
        query, key, value = self.project_query(query), self.project_key(key), self.project_value(value)
        return self.attend(query, key, value, attention_similarity)

    def project_query(self, x: Tensor) -> Tensor:
        """The quantized query of ``x``, ``(..., C) -> (..., channels)``."""
        return through(self.quantizers.query, self.q_proj(x))

    def project_key(self, x: Tensor) -> Tensor:
        """The quantized key of ``x``, ``(..., C) -> (..., channels)``."""
        return through(self.quantizers.key, self.k_proj(x))

    def project_value(self, x: Tensor) -> Tensor:
        """The quantized value of ``x``, ``(..., C) -> (..., channels)``."""
        return through(self.quantizers.value, self.v_proj(x))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, similarity: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What follows the projections: ``(B, P, N, channels)`` each -> output and map, as ``forward``."""
        value = self._heads(value)
        probabilities = self.probabilities(query, key, similarity)
        if self.quantizers.attention is not None:
            probabilities = self.quantizers.attention(probabilities, value)
        output = self.quantizers.weighted(probabilities, value).transpose(1, 2).flatten(2)
        return self.output_layer(output.view(*query.shape[:3], -1)), probabilities

    def probabilities(self, query: Tensor, key: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Softmax map ``(B*P, heads, N_q, N_k)`` of projected queries and keys ``(B, P, N, channels)``."""
        scores = self.scores(query, key)
        if similarity is not None:
            scores = scores + similarity
        return torch.softmax(scores, dim=-1)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """What softmax is taken of, of the same shapes as ``probabilities``."""
        return self.quantizers.scores(self._heads(query), self._heads(key), self.scaling)

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, P, N, heads*d) -> (B*P, heads, N, d)``."""
        heads: Tensor = x.flatten(0, 1).unflatten(-1, (self.num_attention_heads, -1))
        return heads.transpose(1, 2)
