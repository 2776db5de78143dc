"""Attention in pieces: maps are worked through a few rows at a time, and none is ever held whole.

Maps of different heads and windows do not touch each other, nor do rows of one map, so splitting is exact;
the 805 MB map of a global SAM-B block never exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.modules.attention import AttentionQuantizers
from saqsam.modules.quantizer import Stage
from saqsam.modules.sampling import SAMPLED_MAPS, SAMPLED_QUERIES, spread

_CHUNK = 1 << 25
"""Elements of the attention map held at once."""
_CACHED = 1 << 20
"""Elements of the map that are quantized together on a CPU: four megabytes, which stay in its cache."""

Positions = Callable[[slice | Tensor], Tensor | None]
"""What is added to the scores ``(maps, N, M)`` of the maps asked for, or ``None``."""


def no_positions(maps: slice | Tensor) -> Tensor | None:
    """Nothing is added."""
    del maps
    return None


@dataclass(frozen=True)
class Pieces:
    """How one attention computes what is between its projections.

    Attributes:
        quantizers: of the attention.
        scale: of its scores.
    """

    quantizers: AttentionQuantizers
    scale: float

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, positions: Positions = no_positions
    ) -> Tensor:
        """``(maps, N, d)``, ``(maps, M, d)`` twice -> ``(maps, N, d)``.

        While a grid is chosen on a few rows of the map, SDPA does the rest.
        """
        quantizer = self.quantizers.attention
        samples = quantizer is None or (quantizer.stage is Stage.OBSERVE and quantizer.kind.rows_suffice)
        attend = self._observe_rows if samples else self._attend
        return attend(query, key, value, positions)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
        """All maps, a bounded number at a time: ``(maps, N, d) -> (maps, N, d)``."""
        per_chunk = max(1, _together(query) // (query.shape[1] * key.shape[1]))
        outputs = []
        for start in range(0, len(query), per_chunk):
            chunk = slice(start, start + per_chunk)
            outputs.append(self._attend_rows(query[chunk], key[chunk], value[chunk], positions(chunk)))
        return torch.cat(outputs)

    def _attend_rows(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """A few maps, a bounded number of their rows at a time."""
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


def _together(x: Tensor) -> int:
    """Elements of the map to quantize together: a GPU wants few large operations."""
    return _CACHED if x.device.type == "cpu" else _CHUNK


def by_head(x: Tensor, heads: int) -> Tensor:
    """``(B, H, W, heads * d) -> (B * heads, H * W, d)``."""
    split: Tensor = x.flatten(1, 2).unflatten(-1, (heads, -1))
    return split.transpose(1, 2).flatten(0, 1)
