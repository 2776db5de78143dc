"""Affine grids shared by groups of channels (Channel-Aware Grouping, AHCPTQ section 3.3).

Channels are the last dimension. Each channel belongs to one group, and each group has one scale and one
integer zero point: a few pairs of numbers instead of one for each channel, so the product of integers
splits into a few products. Every channel has at most ``2**bits`` values, zero among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from saqsam.grids.affine import affine_codes, affine_round_trip, affine_values, straight_through
from saqsam.grids.grid import Grid, Place, scale_problem, zero_point_problem
from saqsam.grids.packed import PackedActivation
from saqsam.grids.registry import register_grid

_ROUNDS = 100
"""Lloyd's iterations at most; a few hundred points settle within some dozens."""


@register_grid
class Grouped(Grid):
    """An affine grid for each group of channels.

    Args:
        bits: 2 to 8.
        scales, zero_points: ``(groups,)`` float; zero points hold integers ``0 .. 2**bits - 1``.
        groups: int64 ``(channels,)``, the group of each channel; every group has a channel.
    """

    name = "grouped"
    places = frozenset({Place.LINEAR_INPUT})
    place_reason = "is for inputs of linear layers"
    range_methods = ("minmax",)
    range_reason = "grouped grids begin with each channel's smallest and largest value"
    granularity = "per-group"
    lists = True
    scales: Tensor
    zero_points: Tensor
    groups: Tensor

    def __init__(self, bits: int, scales: Tensor, zero_points: Tensor, groups: Tensor) -> None:
        super().__init__(bits)
        self.keep(scales=scales, zero_points=zero_points, groups=groups)

    def codes(self, x: Tensor) -> Tensor:
        """As of ``Grid`` for ``x`` ``(..., channels)``; float."""
        return affine_codes(x, self.scales[self.groups], self.zero_points[self.groups], self.bits)

    def values(self, codes: Tensor) -> Tensor:
        """As of ``Grid``."""
        return affine_values(codes, self.scales[self.groups], self.zero_points[self.groups])

    def round_trip(self, x: Tensor) -> Tensor:
        """As of ``Grid``."""
        return affine_round_trip(x, self.scales[self.groups], self.zero_points[self.groups], self.bits)

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """As of ``Grid``."""
        scales = self.scales if numbers is None else numbers
        zero_points = self.zero_points[self.groups]
        return straight_through(x, scales[self.groups], zero_points, self.bits, mask)

    def numbers(self) -> Tensor:
        """As of ``Grid``: the scales."""
        return self.scales

    def with_numbers(self, numbers: Tensor) -> Self:
        """As of ``Grid``."""
        return type(self)(self.bits, numbers, self.zero_points, self.groups)

    def check(self, channels: int | None = None) -> str:
        """As of ``Grid``."""
        count = self.scales.numel()
        problem = scale_problem(self.scales, (count,)) or zero_point_problem(
            self.zero_points, (count,), 2**self.bits - 1
        )
        used = self.groups.unique().tolist()
        if problem or (self.groups.ndim == 1 and used == list(range(count))):
            return problem
        return f"its channels are in groups {used[:9]}, not in all of 0..{count - 1}"

    def bounds(self) -> tuple[float, float]:
        """As of ``Grid``."""
        low = -self.zero_points * self.scales
        high = (2**self.bits - 1 - self.zero_points) * self.scales
        return float(low.min()), float(high.max())

    def to_packed(self) -> PackedActivation:
        """As of ``Grid``."""
        zero_points, groups = self.zero_points.int().tolist(), self.groups.tolist()
        scales = tuple(self.scales.tolist())
        return PackedActivation(self.name, self.bits, scales, tuple(zero_points), tuple(groups))

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        """As of ``Grid``."""
        zero_points = torch.tensor(packed.zero_point, dtype=torch.float32)
        return cls(packed.bits, torch.tensor(packed.scale), zero_points, torch.tensor(packed.detail))

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        """As of ``Grid``."""
        scales, zero_points, groups = packed.scale, packed.zero_point, packed.detail
        if not (isinstance(scales, tuple) and isinstance(zero_points, tuple) and isinstance(groups, tuple)):
            return packed.unlawful
        if any(zero_point not in range(1 << packed.bits) for zero_point in zero_points):
            return f"a zero point is outside 0 .. {(1 << packed.bits) - 1}"
        if len(zero_points) != len(scales) or set(groups) != set(range(len(scales))):
            return f"its channels and zero points do not fit its {len(scales)} groups"
        return ""

    def facts(self) -> dict[str, Any]:
        """As of ``Grid``, and ``groups``."""
        return {**super().facts(), "groups": self.groups.tolist()}

    def channels(self) -> int:
        """As of ``Grid``."""
        return len(self.groups)

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """As of ``Grid``: the channels of each group."""
        return [x[..., self.groups == group] for group in range(self.scales.numel())]

    def unplanned(self, groups: int) -> str:
        """As of ``Grid``."""
        count = self.scales.numel()
        return f"has {count} groups of channels, planned {groups}" if count > groups else ""


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
