"""Learned scales of channels that are joined to fewer and fewer groups (CAG, AHCPTQ section 3.3).

Learning begins with a scale for each channel. After 20, 40, 60 and 80 % of the steps k-means joins the
channels to 8, 4, 2 and 1 times as many groups as wanted in the end. From the first joining on, the channels
of a group share the mean logarithm of their scales, so that nothing but the mean matters of what is learned
and the optimiser goes on undisturbed; published code makes it anew, and its rate begins from the top again.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.errors import InvariantError
from saqsam.grids.grouped import group_channels, group_means
from saqsam.quantizer import Quantizer
from saqsam.reconstruct.mixing import Mixing

JOININGS = ((0.2, 8), (0.4, 4), (0.6, 2), (0.8, 1))
"""Share of the steps, and groups from then on in units of the final number."""


class LearnedGroups:
    """The scales of one grouped grid while they are learned.

    Args:
        quantizer: with its groups and the ranges of its channels.

    Raises:
        InvariantError: the ranges of its channels are gone.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        if quantizer.channel_ranges is None:
            raise InvariantError(quantizer.site, "the ranges of its channels are gone; it cannot be learned")
        self.begin = (quantizer.scale, quantizer.zero_point, quantizer.groups)
        self.bits, self.wanted = quantizer.bits, quantizer.scale.numel()
        channels = quantizer.channel_ranges.to(quantizer.scale)
        self.log_scale, self.zero_point = channels[0].log(), channels[1]
        self.groups = torch.arange(len(self.zero_point), device=channels.device)
        self.log_ratio = torch.zeros_like(self.log_scale).requires_grad_(True)
        self.joined = 0

    def scale(self) -> Tensor:
        """The present scale of each group, differentiable in ``log_ratio``."""
        return group_means(self.log_scale + self.log_ratio, self.groups).exp()

    def answer(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """``x`` ``(..., channels)`` on the present grids."""
        mask = None if mixing is None else mixing.mask(x)
        scale, zero_point = self.scale()[self.groups], self.zero_point[self.groups]
        return channelwise(x, scale, zero_point, self.bits, mask)

    def advance(self, share: float) -> None:
        """Join channels when the share of steps done says so."""
        due = [multiple for begin, multiple in JOININGS if share >= begin]
        if len(due) > self.joined:
            self.joined = len(due)
            self._join(due[-1] * self.wanted)

    def settle(self, quantizer: Quantizer) -> None:
        """Write groups, scales and zero points into the quantizer, all joined."""
        self.advance(1.0)
        quantizer.set_grouped(self.scale(), self.zero_point, self.groups)

    def restore(self, quantizer: Quantizer) -> None:
        """Back to the calibrated groups."""
        quantizer.set_grouped(*self.begin)

    @torch.no_grad()
    def _join(self, count: int) -> None:
        if count >= self.zero_point.numel():
            return
        scale, zero_point = self.scale()[self.groups], self.zero_point[self.groups]
        self.groups = group_channels(scale, zero_point, count)
        mean = group_means(torch.stack([scale, zero_point], 1), self.groups)
        self.zero_point = mean[:, 1].round().clamp(0, 2**self.bits - 1)
        # What has been learned is kept as it is; the new beginning makes up the difference to the mean.
        self.log_scale = mean[:, 0].log()[self.groups] - self.log_ratio


class _Channelwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None
    ) -> Tensor:
        steps = x / scale
        codes = steps.round()
        clamped = torch.minimum(torch.maximum(codes, -zero_point), 2**bits - 1 - zero_point)
        inside = codes == clamped
        output = clamped * scale
        slope = clamped - steps * inside
        if mask is not None:
            output = torch.where(mask, output, x)
            slope *= mask
            inside |= ~mask
        ctx.save_for_backward(slope, inside)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, inside = ctx.saved_tensors
        to_x = gradient * inside if ctx.needs_input_grad[0] else None
        to_scale = (gradient * slope).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return to_x, to_scale, None, None, None


def channelwise(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, mask: Tensor | None = None
) -> Tensor:
    """``x`` ``(..., channels)`` on an affine grid for each channel, differentiable in ``x`` and ``scale``.

    Args:
        x: any leading shape.
        scale, zero_point: ``(channels,)``.
        bits: 2 to 8.
        mask: as of ``straight_through.affine``.
    """
    return cast(Tensor, _Channelwise.apply(x, scale, zero_point, bits, mask))  # type: ignore[no-untyped-call]
