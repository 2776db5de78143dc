"""The one quantizer: it observes, then simulates, then is frozen, and never goes back.

========  ==========================================  =======================================
stage     ``forward(x)``                              leaves by
========  ==========================================  =======================================
OBSERVE   shows ``x`` to its observer, returns ``x``  ``set_affine`` / ``set_log2``
FAKE      returns ``x`` on the grid                   ``freeze`` (ranges may still be replaced)
FROZEN    returns ``x`` on the grid                   nothing
========  ==========================================  =======================================

There is no random branch, no learning switch and no "off": a site without a quantizer is a float site.
"""

from __future__ import annotations

import enum
from typing import Protocol

import torch
from torch import Tensor, nn

from saqsam.errors import InvariantError
from saqsam.grids.affine import affine_round_trip
from saqsam.grids.log2 import GRANULARITIES, log2_round_trip

AFFINE, LOG2 = "affine", "log2"


class Stage(enum.Enum):
    """Where a quantizer is in its life."""

    OBSERVE = "observe"
    FAKE = "fake"
    FROZEN = "frozen"


class Observer(Protocol):
    """Whatever collects statistics of the tensors that pass a quantizer."""

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """See one tensor; ``value`` is the attention's value tensor, given only for attention maps."""


class Quantizer(nn.Module):
    """Quantizes one site of the model.

    Args:
        site: full name of the site, ``"<module path>:<role>"``; used in messages and files.
        bits: 2 to 8.
        grid: ``"affine"`` or ``"log2"``.
        channels: number of output channels for a per-channel weight grid, or ``None`` for one
            scale for the whole tensor. Channels are dimension 0.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, site: str, bits: int, grid: str = AFFINE, channels: int | None = None) -> None:
        super().__init__()
        shape = () if channels is None else (channels,)
        self.site, self.bits, self.grid, self.channels = site, bits, grid, channels
        self.tau = 0
        self.observer: Observer | None = None
        self.stage = Stage.OBSERVE
        self.register_buffer("scale", torch.full(shape, torch.nan), persistent=False)
        self.register_buffer("zero_point", torch.zeros(shape), persistent=False)

    def forward(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        """Return ``x`` (same shape and dtype) as the stage demands; see the table above."""
        if self.stage is Stage.OBSERVE:
            if self.observer is not None:
                self.observer.update(x, value)
            return x
        if self.grid == LOG2:
            return log2_round_trip(x, self.scale, self.tau, self.bits)
        scale, zero_point = self.parameters_for(x)
        return affine_round_trip(x, scale, zero_point, self.bits)

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point shaped to broadcast against ``x`` (channels are dimension 0)."""
        if self.channels is None:
            return self.scale, self.zero_point
        shape = (self.channels,) + (1,) * (x.ndim - 1)
        return self.scale.view(shape), self.zero_point.view(shape)

    def set_affine(self, scale: Tensor, zero_point: Tensor) -> None:
        """Give the affine grid its parameters and start quantizing.

        Raises:
            InvariantError: the quantizer is frozen, has another grid, or the numbers make no grid.
        """
        self._check_open(AFFINE, scale)
        self._check_shape("zero points", zero_point)
        levels = 2**self.bits - 1
        whole = torch.equal(zero_point, zero_point.round())
        if not whole or bool((zero_point < 0).any()) or bool((zero_point > levels).any()):
            raise InvariantError(self.site, f"zero point is not an integer in 0..{levels}")
        self._store(scale, zero_point)

    def set_log2(self, scale: Tensor, tau: int) -> None:
        """Give the logarithmic grid its largest value and granularity and start quantizing.

        Raises:
            InvariantError: as ``set_affine``, or ``tau`` is not 1, 2 or 4.
        """
        self._check_open(LOG2, scale)
        if tau not in GRANULARITIES:
            raise InvariantError(self.site, f"granularity {tau} is not one of {GRANULARITIES}")
        self.tau = tau
        self._store(scale, torch.zeros_like(scale))

    def freeze(self) -> None:
        """Make the present grid final.

        Raises:
            InvariantError: no range was ever set, or an observer still watches; see ``check_settled``.
        """
        self.check_settled()
        self.stage = Stage.FROZEN

    def check_settled(self) -> None:
        """Nothing is left to decide here.

        Raises:
            InvariantError: no range was ever set, or an observer is attached although there is one: what
                it collects would be lost without a word.
        """
        if self.stage is Stage.OBSERVE:
            raise InvariantError(self.site, "no range was ever observed here, so it cannot be frozen")
        if "forward" in vars(self):  # see reconstruct.replace
            raise InvariantError(self.site, "another function answers in its place, so it cannot be frozen")
        if self.observer is not None:
            raise InvariantError(self.site, "an observer is still attached, so it cannot be frozen")

    def _check_open(self, grid: str, scale: Tensor) -> None:
        if self.stage is Stage.FROZEN:
            raise InvariantError(self.site, "is frozen: its range cannot change any more")
        if grid != self.grid:
            raise InvariantError(self.site, f"has a {self.grid} grid, not {grid}")
        self._check_shape("scales", scale)
        if not bool(torch.isfinite(scale).all()) or not bool((scale > 0).all()):
            raise InvariantError(self.site, "scale is not a finite positive number")

    def _check_shape(self, what: str, given: Tensor) -> None:
        if given.shape != self.scale.shape:
            wanted = tuple(self.scale.shape)
            raise InvariantError(self.site, f"needs {what} of shape {wanted}, got {tuple(given.shape)}")

    def _store(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale = scale.detach().to(self.scale).clone()
        self.zero_point = zero_point.detach().to(self.zero_point).clone()
        self.observer = None
        self.stage = Stage.FAKE

    def extra_repr(self) -> str:
        return f"{self.site}, {self.grid} {self.bits}-bit, {self.stage.value}"
