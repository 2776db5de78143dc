"""Rotations inside each attention head, which nothing outside can see.

* values: ``v -> R v`` and the output projection's columns ``W -> W R^T``, a rotation for each head;
* queries and keys: ``q -> R q``, ``k -> R k`` leaves every score ``q . k`` as it was. In the encoder the
  query also meets tables of relative positions that all heads share, so there one rotation serves all
  heads and the tables turn with it.

An outlier channel is spread over its head's channels, so that the tensor's range shrinks. What is spread
can no longer be clipped without loss, which matters to PCC.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saqsam.folds.orthogonal import spreading
from saqsam.folds.projections import KEY, QUERY, VALUE, Projections


def rotate_values(projections: Projections, generator: torch.Generator) -> int:
    """Rotate every head's values; returns the width of a head."""
    heads = _heads(projections)
    weight, bias = projections.rows(VALUE)
    width = len(bias) // heads
    rotations = [spreading(width, generator) for _ in range(heads)]
    _rotate_rows(weight, bias, rotations)
    _rotate_rows(projections.output_weight().T, None, rotations)
    return width


def rotate_queries_and_keys(projections: Projections, generator: torch.Generator) -> int:
    """Rotate every head's queries and keys alike; returns the width of a head."""
    heads = _heads(projections)
    width = len(projections.rows(QUERY)[1]) // heads
    attention = projections.attention
    if len(projections.layers) == 1:
        rotations = [spreading(width, generator)] * heads
        for table in attention.position_tables:
            _rotate_rows(table.data.T, None, rotations[:1])
    else:
        rotations = [spreading(width, generator) for _ in range(heads)]
    for kind in (QUERY, KEY):
        _rotate_rows(*projections.rows(kind), rotations)
    return width


def _heads(projections: Projections) -> int:
    attention: nn.Module = projections.attention
    heads: int = vars(attention)["num_attention_heads"]
    return heads


def _rotate_rows(weight: Tensor, bias: Tensor | None, rotations: list[Tensor]) -> None:
    """``W -> R W`` for the rows of each head, in place."""
    width = len(rotations[0])
    for head, rotation in enumerate(rotations):
        rows = slice(head * width, (head + 1) * width)
        for part in (weight, bias):
            if part is not None:
                turned = rotation.to(part.device) @ part[rows].double()
                part[rows] = turned.to(part.dtype)
