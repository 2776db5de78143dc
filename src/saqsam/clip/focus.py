"""Attention focus and how much of it survives (SAQ-SAM section 3.2; method called PCC there).

A key is in a query's focus when its probability exceeds ``theta`` times the largest probability of that
query. Two maps are compared by the IoU of their focus masks, one IoU for each prompt and head, summed over
queries and keys as the released code does.

Focus is read off the scores before the softmax: ``p > theta * max p`` says the same as
``score > max score + log theta``, and saves the exponentials of maps with millions of entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPSILON = 1e-6


def focus_mask(scores: Tensor, threshold: float) -> Tensor:
    """Which keys each query looks at.

    Args:
        scores: ``(..., N_q, N_k)``, scaled products of queries and keys.
        threshold: theta, as a share of each row's largest probability; 0.5 in the paper.

    Returns:
        bool of the same shape; every row has at least one True for ``threshold < 1``.
    """
    return scores > scores.amax(-1, keepdim=True) + math.log(threshold)


def focus_iou(scores: Tensor, reference: Tensor, threshold: float) -> float:
    """Mean over prompts and heads of the IoU of two focus masks.

    Args:
        scores: ``(prompts, heads, N_q, N_k)`` of the map under test.
        reference: bool focus mask of the float map, same shape.
        threshold: theta.

    Returns:
        1 when every query still looks where it looked; PCC's distance is one minus this.
    """
    mask = focus_mask(scores, threshold)
    both = (mask & reference).flatten(2).sum(-1, dtype=torch.float32)
    either = (mask | reference).flatten(2).sum(-1, dtype=torch.float32)
    return float((both / (either + _EPSILON)).mean())
