"""Ranges of single channels, and the groups that channels begin in (CAG, AHCPTQ section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.errors import NumericalError
from saqsam.grids.affine import affine_parameters
from saqsam.grids.grouped import Grouped, group_channels, group_means


class ChannelObserver:
    """Smallest and largest value of each channel (last dimension) of all tensors seen, in any order.

    Attributes:
        low, high: float32 ``(channels,)``; ``None`` before the first tensor.
        count: values seen.
    """

    def __init__(self, site: str) -> None:
        self.site = site
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.count = 0

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """See ``x`` ``(..., channels)``; ``value`` is not looked at.

        Raises:
            NumericalError: ``x`` holds NaN or infinity.
        """
        del value
        if x.numel() == 0:
            return
        low, high = x.detach().flatten(0, -2).float().aminmax(dim=0)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise NumericalError(self.site, "NaN or infinity in its values; check the weights and the images")
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.count += x.numel()


def grouped_grid(channel_ranges: Tensor, count: int, bits: int) -> Grouped:
    """The grid of channels that share scales.

    Args:
        channel_ranges: ``(2, channels)``: scale and zero point of each channel.
        count: groups at most.
        bits: 2 to 8.

    Returns:
        Each group has the mean scale and the mean zero point, rounded, of its channels.
    """
    groups = group_channels(channel_ranges[0], channel_ranges[1], count)
    scale, zero_point = group_means(channel_ranges.t(), groups).unbind(1)
    return Grouped(bits, scale, zero_point.round().clamp(0, 2**bits - 1), groups)


def channel_parameters(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """``(2, channels)``: scale and zero point of each channel's own grid, from ``(channels,)`` ends."""
    return torch.stack(affine_parameters(low, high, bits))
