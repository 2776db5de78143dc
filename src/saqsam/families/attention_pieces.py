"""Attention in pieces: maps are worked through a few rows at a time, and none is ever held whole.

Maps of different heads and windows do not touch each other, nor do rows of one map, so splitting is exact;
the 805 MB map of a global SAM-B block never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.grids.pieces import CACHED
from saqsam.modules.attention import AttentionQuantizers
from saqsam.modules.quantizer import Stage
from saqsam.modules.sampling import SAMPLED_MAPS, SAMPLED_QUERIES, spread

_CHUNK = 1 << 25
"""Elements of the attention map held at once."""

Added = tuple[Tensor, Tensor]
"""What queries add to scores of keys in each row ``(maps, N, H)``, and in each column ``(maps, N, W)``."""


@dataclass(frozen=True)
class Positions:
    """Relative positions, which are added to the scores of ``H * W`` keys.

    Attributes:
        query: ``(maps, N, d)``, what the tables of positions are multiplied with.
        met: products of some of its maps with the tables, each when it is asked for.
    """

    query: Tensor
    met: Callable[[Tensor], Added]

    def split(self, maps: int) -> Iterator[Added]:
        """Of so many maps at a time."""
        return map(self.met, self.query.split(maps))


@dataclass(frozen=True)
class Pieces:
    """How one attention computes what is between its projections.

    Attributes:
        quantizers: of the attention.
        scale: of its scores.
    """

    quantizers: AttentionQuantizers
    scale: float

    def attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions | None = None) -> Tensor:
        """``(maps, N, d)``, ``(maps, M, d)`` twice -> ``(maps, N, d)``.

        While a grid is chosen on a few rows of the map, SDPA does the rest.
        """
        quantizer = self.quantizers.attention
        samples = quantizer is None or (quantizer.stage is Stage.OBSERVE and quantizer.kind.rows_suffice)
        attend = self._observe_rows if samples else self._attend
        return attend(query, key, value, positions)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions | None) -> Tensor:
        """All maps, a bounded number at a time: ``(maps, N, d) -> (maps, N, d)``.

        Tensors are split, not sliced: on the way back the gradients of slices are each as large as the whole,
        zero but for the slice, and added up.
        """
        count = max(1, _together(query) // (query.shape[1] * key.shape[1]))
        pieces = _split(query, key, value, positions, count)
        return torch.cat([self._attend_rows(*piece) for piece in pieces])

    def _attend_rows(self, query: Tensor, key: Tensor, value: Tensor, added: Added | None) -> Tensor:
        """A few maps, a bounded number of their rows at a time."""
        outputs = []
        rows = max(1, _together(query) // (len(query) * key.shape[1]))
        parts = repeat(None) if added is None else zip(*(x.split(rows, 1) for x in added), strict=True)
        for asked, part in zip(query.split(rows, 1), parts, strict=False):
            scores = self.quantizers.scores(asked, key, self.scale)
            if part is not None:
                scores += _bias(*part)
            probabilities = torch.softmax(scores, dim=-1)
            if self.quantizers.attention is not None:
                probabilities = self.quantizers.attention(probabilities, value)
            outputs.append(self.quantizers.weighted(probabilities, value))
        return torch.cat(outputs, dim=1)

    def _observe_rows(self, query: Tensor, key: Tensor, value: Tensor, positions: Positions | None) -> Tensor:
        """Float output by fused attention; the observer sees an even sample of the map's rows."""
        if self.quantizers.attention is not None:
            chosen = spread(query.shape[0], SAMPLED_MAPS, query.device)
            some = spread(query.shape[1], SAMPLED_QUERIES, query.device)
            scores = (query[chosen][:, some] * self.scale) @ key[chosen].transpose(-2, -1)
            if positions is not None:
                by_row, by_column = positions.met(positions.query[chosen])
                scores += _bias(by_row[:, some], by_column[:, some])
            self.quantizers.attention(torch.softmax(scores, dim=-1), value[chosen])
        outputs = []
        count = max(1, _CHUNK // (query.shape[1] * key.shape[1]))
        for q, k, v, added in _split(query, key, value, positions, count):
            # Only four-dimensional operands reach PyTorch's fused kernel.
            mask = None if added is None else _bias(*added)[None]
            outputs.append(F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0])
        return torch.cat(outputs)


def _split(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions | None, maps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Added | None]]:
    """Queries, keys and values of so many maps at a time, and what is added to their scores."""
    added = repeat(None) if positions is None else positions.split(maps)
    return zip(query.split(maps), key.split(maps), value.split(maps), added, strict=False)


def _bias(by_row: Tensor, by_column: Tensor) -> Tensor:
    """What is added to the scores: ``(maps, N, H)``, ``(maps, N, W)`` -> ``(maps, N, H * W)``."""
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(-2)


def _together(x: Tensor) -> int:
    """Elements of the map to quantize together: a GPU wants few large operations."""
    return CACHED if x.device.type == "cpu" else _CHUNK


def by_head(x: Tensor, heads: int) -> Tensor:
    """``(B, H, W, heads * d) -> (B * heads, H * W, d)``."""
    split: Tensor = x.flatten(1, 2).unflatten(-1, (heads, -1))
    return split.transpose(1, 2).flatten(0, 1)
