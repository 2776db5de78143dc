"""Even, repeatable subsets: which attention maps and rows are looked at when all would be too many."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLED_MAPS, SAMPLED_QUERIES, SAMPLED_CHANNELS = 16, 4, 16
"""Attention maps (head of a window or prompt), queries of each, and channels of the values that the scale
search looks at per image; all keys of a sampled query are used, so each row is a whole distribution."""


def spread(length: int, count: int, device: torch.device) -> Tensor:
    """At most ``count`` indices spread evenly over ``range(length)``, ends avoided; int64."""
    count = min(length, count)
    return ((torch.arange(count, device=device) + 0.5) * (length / count)).long()


def sample_maps(maps: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of attention maps with the values they weigh.

    Args:
        maps: ``(..., queries, keys)``.
        values: ``(..., keys, channels)`` with the same leading dimensions.

    Returns:
        ``(m, q, keys)`` and ``(m, keys, c)`` with m, q and c bounded by the constants above.
    """
    maps, values = maps.flatten(0, -3), values.flatten(0, -3)
    chosen = spread(maps.shape[0], SAMPLED_MAPS, maps.device)
    queries = spread(maps.shape[1], SAMPLED_QUERIES, maps.device)
    channels = spread(values.shape[2], SAMPLED_CHANNELS, maps.device)
    return maps[chosen][:, queries], values[chosen][..., channels]
