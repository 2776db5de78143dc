"""The one quantizer: it observes, then simulates, then is frozen, and never goes back.

========  ==========================================  =======================================
stage     ``forward(x)``                              leaves by
========  ==========================================  =======================================
OBSERVE   shows ``x`` to its observer, returns ``x``  ``set``
FAKE      returns ``x`` on the grid                   ``freeze`` (ranges may still be replaced)
FROZEN    returns ``x`` on the grid                   nothing
========  ==========================================  =======================================

There is no random branch, no learning switch and no "off": a site without a quantizer is a float site.
While a model is learned, an ``override`` may answer in a quantizer's place, which then cannot be frozen.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from saqsam.errors import InvariantError
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid


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
        kind: the grid that it will be given; see ``saqsam.grids``.
        channels: number of output channels for a per-channel weight grid, or ``None`` for one
            scale for the whole tensor. Channels are dimension 0.

    Attributes:
        channel_ranges: ``(2, channels)``, scale and zero point of each channel that groups of channels were
            made of, with which learning begins; gone once frozen, and ``None`` on any other grid.
        override: answers in place of the stage, as long as it is set; see ``reconstruct.overrides``.
    """

    _device: Tensor

    def __init__(self, site: str, bits: int, kind: type[Grid] = Affine, channels: int | None = None) -> None:
        super().__init__()
        self.site, self.bits, self.kind, self.channels = site, bits, kind, channels
        self.channel_ranges: Tensor | None = None
        self.observer: Observer | None = None
        self.override: Override | None = None
        self.stage = Stage.OBSERVE
        self.register_module("_grid", None)
        self.register_buffer("_device", torch.empty(0), persistent=False)  # where a grid will have to be

    @property
    def has_grid(self) -> bool:
        """Whether it was given a grid."""
        return self._modules["_grid"] is not None

    @property
    def grid(self) -> Grid:
        """The grid.

        Raises:
            InvariantError: it has none yet.
        """
        found = self._modules["_grid"]
        if not isinstance(found, Grid):
            raise InvariantError(self.site, "no range was ever observed here")
        return found

    @property
    def affine(self) -> Affine:
        """The grid as one scale times whole steps.

        Raises:
            InvariantError: it has none yet, or one of another form.
        """
        found = self.grid.as_affine()
        if found is None:
            raise InvariantError(self.site, f"has a {self.kind.name} grid, which has no whole steps")
        return found

    def forward(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        """Return ``x`` (same shape and dtype) as the override says, if there is one, else ``by_stage``."""
        return self.by_stage(x, value) if self.override is None else self.override(x, value)

    def by_stage(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        """Return ``x`` (same shape and dtype) as the stage demands, see the table above, override or not."""
        if self.stage is Stage.OBSERVE:
            if self.observer is not None:
                self.observer.update(x, value)
            return x
        return self.grid.round_trip(x)

    def set(self, grid: Grid) -> None:
        """Take a copy of a grid and start quantizing.

        Raises:
            InvariantError: the quantizer is frozen, was made for another kind or other bits, or the grid's
                numbers make no grid.
        """
        if self.stage is Stage.FROZEN:
            raise InvariantError(self.site, "is frozen: its range cannot change any more")
        if type(grid) is not self.kind:
            raise InvariantError(self.site, f"has a {self.kind.name} grid, not {grid.name}")
        if grid.bits != self.bits:
            raise InvariantError(self.site, f"has {self.bits} bits, not {grid.bits}")
        if problem := grid.check(self.channels):
            raise InvariantError(self.site, problem)
        self._grid = copy.deepcopy(grid).to(self._device)
        self.observer = None
        self.stage = Stage.FAKE

    def cover(self, low: Tensor, high: Tensor) -> None:
        """Take the affine grid that spans ``[low, high]``, scalars or ``(channels,)``, and start quantizing.

        Raises:
            InvariantError: as ``set``, or the grid is of a kind that two ends do not give.
        """
        if not issubclass(self.kind, Affine):
            raise InvariantError(self.site, f"has a {self.kind.name} grid, which two ends do not give")
        self.set(self.kind.spanning(low, high, self.bits))

    def freeze(self) -> None:
        """Make the present grid final.

        Raises:
            InvariantError: no range was ever set, or an observer still watches; see ``check_has_range``.
        """
        self.check_has_range()
        self.channel_ranges = None
        self.stage = Stage.FROZEN

    def check_has_range(self) -> None:
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

    def extra_repr(self) -> str:
        return f"{self.site}, {self.kind.name} {self.bits}-bit, {self.stage.value}"
