"""Equalisation: move scale between two tensors that only ever meet in a product.

* query and key: ``q_c / t`` and ``k_c * t`` leave every score as it was.
* value and output projection: ``v_c / t`` and column c of the output weight ``* t`` likewise.

Scales follow Nagel et al. 2019 (data-free quantization, section 4.1): ``t = sqrt(range_1 / range_2)``.
The encoder's queries also meet relative-position tables that all heads share, so query/key equalisation
is exact in the decoder only and is applied there only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.folds.projections import KEY, QUERY, VALUE, Projections

_FLOOR = 1e-4
"""A channel's range counts as at least this share of the widest one: a dead channel is scaled down by a
factor of 100 at most, which keeps float32 exact enough."""


def equalise_query_key(projections: Projections) -> float:
    """Give query and key channel c the same range; returns the largest factor used."""
    factors = balance(projections.statistics[QUERY].span, projections.statistics[KEY].span)
    for kind, factor in ((QUERY, 1 / factors), (KEY, factors)):
        weight, bias = projections.rows(kind)
        weight.mul_(factor[:, None])
        bias.mul_(factor)
    return float(torch.maximum(factors, 1 / factors).max())


def scale_values(projections: Projections) -> float:
    """Even out value channels against the output columns that read them; returns the largest factor."""
    columns = projections.output_weight()
    factors = balance(projections.statistics[VALUE].span, columns.amax(0) - columns.amin(0))
    factors /= torch.exp(torch.log(factors).mean())
    weight, bias = projections.rows(VALUE)
    weight.div_(factors[:, None])
    bias.div_(factors)
    columns.mul_(factors)
    return float(torch.maximum(factors, 1 / factors).max())


def balance(first: Tensor, second: Tensor) -> Tensor:
    """``sqrt(first / second)`` for each channel, with dead channels floored; 1 where both are dead."""
    first = first.clamp(min=max(float(first.max()) * _FLOOR, 1e-12))
    second = second.clamp(min=max(float(second.max()) * _FLOOR, 1e-12))
    return torch.sqrt(first / second)
