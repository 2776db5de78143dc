"""Affine grids shared by groups of channels (Channel-Aware Grouping, AHCPTQ section 3.3).

Channels are the last dimension. Each channel belongs to one group, and each group has one scale and one
integer zero point: a few pairs of numbers instead of one for each channel, so the product of integers
splits into a few products. Every channel has at most ``2**bits`` values, zero among them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.grids.affine import affine_codes, affine_round_trip, affine_values

_ROUNDS = 100
"""Lloyd's iterations at most; a few hundred points settle within some dozens."""


def grouped_codes(x: Tensor, scale: Tensor, zero_point: Tensor, groups: Tensor, bits: int) -> Tensor:
    """Integer codes of ``x`` as a float tensor of its shape.

    Args:
        x: ``(..., channels)``.
        scale, zero_point: ``(groups,)`` float; zero points hold integers ``0 … 2**bits - 1``.
        groups: int64 ``(channels,)``, the group of each channel.
        bits: 2 to 8.
    """
    return affine_codes(x, scale[groups], zero_point[groups], bits)


def grouped_values(codes: Tensor, scale: Tensor, zero_point: Tensor, groups: Tensor) -> Tensor:
    """The real numbers that ``codes`` ``(..., channels)`` stand for."""
    return affine_values(codes, scale[groups], zero_point[groups])


def grouped_round_trip(x: Tensor, scale: Tensor, zero_point: Tensor, groups: Tensor, bits: int) -> Tensor:
    """``x`` moved to the nearest value of each channel's grid, same shape; args as ``grouped_codes``."""
    return affine_round_trip(x, scale[groups], zero_point[groups], bits)


def group_channels(scale: Tensor, zero_point: Tensor, count: int) -> Tensor:
    """Which channels may share a grid: k-means on pairs of scale and zero point.

    Both are divided by their standard deviation first. Published code leaves that out: zero points (0 to
    15) then outweigh scales (around 0.01), and channels are grouped by zero point alone.

    Nothing is random: the first centre is the point farthest from the mean, each next one the point
    farthest from all centres so far; ties go to the lower channel.

    Args:
        scale, zero_point: ``(channels,)``, one grid for each channel.
        count: groups wanted; there are fewer where fewer channels differ.

    Returns:
        int64 ``(channels,)`` on the device of ``scale``: groups ``0, 1, …`` without gaps, numbered in the
        order of their first channel.
    """
    points = torch.stack([scale, zero_point], 1).double().cpu()
    points = points / points.std(0, correction=0).clamp(min=1e-12)
    centres = _far_apart(points, count)
    groups = torch.zeros(len(points), dtype=torch.int64)
    for step in range(_ROUNDS):
        nearest = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        if step and torch.equal(nearest, groups):
            break
        groups = _numbered(nearest)
        centres = group_means(points, groups)
    return groups.to(scale.device)


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of the ``values`` ``(channels, ...)`` of each group: ``(groups, ...)``; differentiable."""
    count = int(groups.max()) + 1
    sums = values.new_zeros((count, *values.shape[1:])).index_add(0, groups, values)
    sizes = torch.bincount(groups, minlength=count).to(values)
    return sums / sizes.view(-1, *(1,) * (values.ndim - 1))


def _far_apart(points: Tensor, count: int) -> Tensor:
    """Up to ``count`` different points, each as far as possible from those before it."""
    chosen = [int((points - points.mean(0)).square().sum(1).argmax())]
    distance = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < count and float(distance.max()) > 0.0:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _numbered(groups: Tensor) -> Tensor:
    """The same groups, numbered by their first channel and without gaps."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(group, len(numbers)) for group in groups.tolist()])
