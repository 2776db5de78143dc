"""Learned scales of channels that are joined to fewer and fewer groups (CAG, AHCPTQ section 3.3).

Learning begins with a scale for each channel. After 20, 40, 60 and 80 % of the steps k-means joins the
channels to 8, 4, 2 and 1 times as many groups as wanted in the end. From the first joining on, the channels
of a group share the mean logarithm of their scales, so that nothing but the mean matters of what is learned
and the optimiser goes on undisturbed; published code makes it anew, and its rate begins from the top again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.grids.affine import straight_through
from saqsam.grids.grid import Grid
from saqsam.grids.grouped import Grouped, group_channels, group_means
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.scales import LearnedScale

JOININGS = ((0.2, 8), (0.4, 4), (0.6, 2), (0.8, 1))
"""Share of the steps, and groups from then on in units of the final number."""


class LearnedGroups(LearnedScale):
    """The scales of one grouped grid while they are learned.

    Args:
        begin: the calibrated grid; it says how many groups there are in the end.
        channel_ranges: ``(2, channels)``, scale and zero point of each channel.
    """

    def __init__(self, begin: Grid, channel_ranges: Tensor) -> None:
        self.begin, self.bits, self.wanted = begin, begin.bits, begin.numbers().numel()
        channels = channel_ranges.to(begin.numbers())
        self.log_scale, self.zero_point = channels[0].log(), channels[1]
        self.groups = torch.arange(len(self.zero_point), device=channels.device)
        self.log_ratio = torch.zeros_like(self.log_scale).requires_grad_(True)
        self.joined = 0

    def numbers(self) -> Tensor:
        """The present scale of each group, differentiable in ``log_ratio``."""
        return group_means(self.log_scale + self.log_ratio, self.groups).exp()

    def round_trip(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` ``(..., channels)`` on the present grids."""
        mask = None if mixing is None else mixing.mask(x)
        scale, zero_point = self.numbers()[self.groups], self.zero_point[self.groups]
        return straight_through(x, scale, zero_point, self.bits, mask)

    def advance(self, share: float) -> None:
        """Join channels when the share of steps done says so."""
        due = [multiple for begin, multiple in JOININGS if share >= begin]
        if len(due) > self.joined:
            self.joined = len(due)
            self._join(due[-1] * self.wanted)

    def final_grid(self) -> Grid:
        """The grid that was learned, all channels joined."""
        self.advance(1.0)
        return Grouped(self.bits, self.numbers(), self.zero_point, self.groups)

    @torch.no_grad()
    def _join(self, count: int) -> None:
        if count >= self.zero_point.numel():
            return
        scale, zero_point = self.numbers()[self.groups], self.zero_point[self.groups]
        self.groups = group_channels(scale, zero_point, count)
        mean = group_means(torch.stack([scale, zero_point], 1), self.groups)
        self.zero_point = mean[:, 1].round().clamp(0, 2**self.bits - 1)
        # What has been learned is kept as it is; the new beginning makes up the difference to the mean.
        self.log_scale = mean[:, 0].log()[self.groups] - self.log_ratio
