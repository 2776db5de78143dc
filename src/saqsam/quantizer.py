"""The one quantizer: it observes, then simulates, then is frozen, and never goes back.

========  ==========================================  =======================================
stage     ``forward(x)``                              leaves by
========  ==========================================  =======================================
OBSERVE   shows ``x`` to its observer, returns ``x``  ``set_affine`` and its like
FAKE      returns ``x`` on the grid                   ``freeze`` (ranges may still be replaced)
FROZEN    returns ``x`` on the grid                   nothing
========  ==========================================  =======================================

There is no random branch, no learning switch and no "off": a site without a quantizer is a float site.
While a model is learned, an ``override`` may answer in a quantizer's place, which then cannot be frozen.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from saqsam.errors import InvariantError
from saqsam.grids.affine import affine_round_trip
from saqsam.grids.grouped import grouped_round_trip
from saqsam.grids.hybrid import MOST_LOG_LEVELS, hybrid_levels, hybrid_round_trip, separable
from saqsam.grids.log2 import GRANULARITIES, log2_round_trip

AFFINE, LOG2, GROUPED, HYBRID = "affine", "log2", "grouped", "hybrid"


class Stage(enum.Enum):
    """Where a quantizer is in its life."""

    OBSERVE = "observe"
    FAKE = "fake"
    FROZEN = "frozen"


class Observer(Protocol):
    """Whatever collects statistics of the tensors that pass a quantizer."""

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """See one tensor; ``value`` is the attention's value tensor, given only for attention maps."""


Override = Callable[[Tensor, Tensor | None], Tensor]
"""Called like a quantizer: the tensor, and for attention maps the values they weigh (else ``None``)."""


class Quantizer(nn.Module):
    """Quantizes one site of the model.

    Args:
        site: full name of the site, ``"<module path>:<role>"``; used in messages and files.
        bits: 2 to 8.
        grid: ``"affine"``, ``"log2"``, ``"grouped"`` or ``"hybrid"``; see ``saqsam.grids``.
        channels: number of output channels for a per-channel weight grid, or ``None`` for one
            scale for the whole tensor. Channels are dimension 0.

    Attributes:
        scale: scalar; ``(channels,)`` of a weight; ``(groups,)`` of a grouped grid; knee and step of a
            hybrid one.
        zero_point: of the shape of ``scale``, but a scalar on a hybrid grid.
        groups: int64, the group of each channel (last dimension) of a grouped grid; else empty.
        tau: levels for each halving on a logarithmic grid, else 0.
        log_levels: levels that are powers of two on a hybrid grid, else 0.
        channel_ranges: ``(2, channels)``, scale and zero point of each channel that the groups were made
            of, with which learning begins; gone once frozen, and ``None`` on any other grid.
        override: answers in place of the stage, as long as it is set; see ``reconstruct.replace``.
    """

    scale: Tensor
    zero_point: Tensor
    groups: Tensor

    def __init__(self, site: str, bits: int, grid: str = AFFINE, channels: int | None = None) -> None:
        super().__init__()
        shape = () if channels is None else (channels,)
        self.site, self.bits, self.grid, self.channels = site, bits, grid, channels
        self.tau = self.log_levels = 0
        self.channel_ranges: Tensor | None = None
        self.observer: Observer | None = None
        self.override: Override | None = None
        self.stage = Stage.OBSERVE
        self.register_buffer("scale", torch.full(shape, torch.nan), persistent=False)
        self.register_buffer("zero_point", torch.zeros(shape), persistent=False)
        self.register_buffer("groups", torch.zeros(0, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        """Return ``x`` (same shape and dtype) as the override says, if there is one, else ``by_stage``."""
        return self.by_stage(x, value) if self.override is None else self.override(x, value)

    def by_stage(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        """Return ``x`` (same shape and dtype) as the stage demands, see the table above, override or not."""
        if self.stage is Stage.OBSERVE:
            if self.observer is not None:
                self.observer.update(x, value)
            return x
        return self.round_trip(x)

    def round_trip(self, x: Tensor) -> Tensor:
        """``x`` moved to the nearest value of the grid, same shape and dtype, whatever the stage."""
        if self.grid == LOG2:
            return log2_round_trip(x, self.scale, self.tau, self.bits)
        if self.grid == GROUPED:
            return grouped_round_trip(x, self.scale, self.zero_point, self.groups, self.bits)
        if self.grid == HYBRID:
            return hybrid_round_trip(x, self.hybrid_levels())
        scale, zero_point = self.parameters_for(x)
        return affine_round_trip(x, scale, zero_point, self.bits)

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point shaped to broadcast against ``x`` (channels are dimension 0)."""
        if self.channels is None:
            return self.scale, self.zero_point
        shape = (self.channels,) + (1,) * (x.ndim - 1)
        return self.scale.view(shape), self.zero_point.view(shape)

    def hybrid_levels(self) -> Tensor:
        """All values of a hybrid grid in code order: float32, shape ``(2**bits,)``."""
        knee, step = self.scale
        return hybrid_levels(knee, step, int(self.zero_point), self.log_levels, self.bits)

    def set_affine(self, scale: Tensor, zero_point: Tensor) -> None:
        """Give the affine grid its parameters and start quantizing.

        Raises:
            InvariantError: the quantizer is frozen, has another grid, or the numbers make no grid.
        """
        self._check_open(AFFINE, scale, self.scale.shape)
        self._check_zero_points(zero_point, scale.shape, 2**self.bits - 1)
        self._store(scale, zero_point)

    def set_log2(self, scale: Tensor, tau: int) -> None:
        """Give the logarithmic grid its largest value and granularity and start quantizing.

        Raises:
            InvariantError: as ``set_affine``, or ``tau`` is not 1, 2 or 4.
        """
        self._check_open(LOG2, scale, self.scale.shape)
        if tau not in GRANULARITIES:
            raise InvariantError(self.site, f"granularity {tau} is not one of {GRANULARITIES}")
        self.tau = tau
        self._store(scale, torch.zeros_like(scale))

    def set_grouped(self, scale: Tensor, zero_point: Tensor, groups: Tensor) -> None:
        """Give the grouped grid one scale and zero point for each group and start quantizing.

        Args:
            scale, zero_point: ``(groups,)``.
            groups: int64 ``(channels,)``, the group of each channel; every group has a channel.

        Raises:
            InvariantError: as ``set_affine``, or a channel's group does not exist, or a group is empty.
        """
        self._check_open(GROUPED, scale, (scale.numel(),))
        self._check_zero_points(zero_point, scale.shape, 2**self.bits - 1)
        used = groups.unique().tolist()
        if groups.ndim != 1 or used != list(range(scale.numel())):
            raise InvariantError(
                self.site, f"its channels are in groups {used[:9]}, not in all of 0..{scale.numel() - 1}"
            )
        self.groups = groups.detach().to(self.groups).clone()
        self._store(scale, zero_point)

    def set_hybrid(self, scale: Tensor, zero_point: Tensor, log_levels: int) -> None:
        """Give the hybrid grid its knee and step and start quantizing.

        Args:
            scale: ``(2,)``: knee, step.
            zero_point: scalar, the code of zero, ``0 … log_levels``.
            log_levels: how many levels are powers of two, 1 to ``min(16, 2**bits - 2)``.

        Raises:
            InvariantError: as ``set_affine``, or ``log_levels`` is out of bounds, or two values of the grid
                lie too close together to be told apart in float32.
        """
        self._check_open(HYBRID, scale, (2,))
        most = min(MOST_LOG_LEVELS, 2**self.bits - 2)
        if not 1 <= log_levels <= most:
            raise InvariantError(self.site, f"{log_levels} logarithmic levels are outside 1..{most}")
        self._check_zero_points(zero_point, (), log_levels)
        if not separable(hybrid_levels(scale[0], scale[1], int(zero_point), log_levels, self.bits)):
            raise InvariantError(self.site, "two values of its hybrid grid cannot be told apart")
        self.log_levels = log_levels
        self._store(scale, zero_point)

    def freeze(self) -> None:
        """Make the present grid final.

        Raises:
            InvariantError: no range was ever set, or an observer still watches; see ``check_settled``.
        """
        self.check_settled()
        self.channel_ranges = None
        self.stage = Stage.FROZEN

    def check_settled(self) -> None:
        """Nothing is left to decide here.

        Raises:
            InvariantError: no range was ever set, or an observer is attached although there is one: what
                it collects would be lost without a word.
        """
        if self.stage is Stage.OBSERVE:
            raise InvariantError(self.site, "no range was ever observed here, so it cannot be frozen")
        if self.override is not None:
            raise InvariantError(self.site, "another function answers in its place, so it cannot be frozen")
        if self.observer is not None:
            raise InvariantError(self.site, "an observer is still attached, so it cannot be frozen")

    def _check_open(self, grid: str, scale: Tensor, shape: Sequence[int]) -> None:
        if self.stage is Stage.FROZEN:
            raise InvariantError(self.site, "is frozen: its range cannot change any more")
        if grid != self.grid:
            raise InvariantError(self.site, f"has a {self.grid} grid, not {grid}")
        self._check_shape("scales", scale, shape)
        if not bool(torch.isfinite(scale).all()) or not bool((scale > 0).all()):
            raise InvariantError(self.site, "scale is not a finite positive number")

    def _check_zero_points(self, zero_point: Tensor, shape: Sequence[int], highest: int) -> None:
        self._check_shape("zero points", zero_point, shape)
        whole = torch.equal(zero_point, zero_point.round())
        if not whole or bool((zero_point < 0).any()) or bool((zero_point > highest).any()):
            raise InvariantError(self.site, f"zero point is not an integer in 0..{highest}")

    def _check_shape(self, what: str, given: Tensor, wanted: Sequence[int]) -> None:
        if tuple(given.shape) != tuple(wanted):
            raise InvariantError(
                self.site, f"needs {what} of shape {tuple(wanted)}, got {tuple(given.shape)}"
            )

    def _store(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale = scale.detach().to(self.scale).clone()
        self.zero_point = zero_point.detach().to(self.zero_point).clone()
        self.observer = None
        self.stage = Stage.FAKE

    def extra_repr(self) -> str:
        return f"{self.site}, {self.grid} {self.bits}-bit, {self.stage.value}"
