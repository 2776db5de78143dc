"""Activations of the calibration images between units: in memory up to a budget, beyond it in mapped files.

A mapped file holds the very bytes of a tensor with its strides, so results do not depend on the budget. Where
the system allows it, a file loses its name as soon as it is mapped: its space is free again when its tensor
is, even if the process is killed.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from saqsam.errors import OutOfDisk
from saqsam.families.record import State

ACTIVATIONS = "activations"
"""Name of the directory of files in a run directory, while there are any."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Kept(Sequence[State]):
    """One state for each image; a state in a file comes back on the device where it was made."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._states: list[State] = []
        self._devices: list[torch.device] = []
        self._held: list[int] = []
        self._in_memory = [0]
        weakref.finalize(self, cache.release, self._in_memory)

    def append(self, state: State) -> None:
        """Add the next image's state.

        Raises:
            OutOfDisk: it has to go into a file, and there is no room for it.
        """
        own = tuple(_own(tensor) for tensor in state)
        size = sum(tensor.nbytes for tensor in own)
        self._devices.append(own[0].device)
        if self._cache.take(size):
            self._in_memory[0] += size
            self._held.append(size)
            self._states.append(own)
        else:
            self._held.append(0)
            self._states.append(tuple(self._cache.in_file(tensor) for tensor in own))

    def drop(self, image: int) -> None:
        """Give up one image's state, and the memory that it takes; asked for again, it is an empty tuple."""
        if self._held[image]:
            self._in_memory[0] -= self._held[image]
            self._cache.release([self._held[image]])
        self._held[image], self._states[image] = 0, ()

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, image: int) -> State: ...

    @overload
    def __getitem__(self, image: slice) -> list[State]: ...

    def __getitem__(self, image: int | slice) -> State | list[State]:
        if isinstance(image, slice):
            return [self[index] for index in range(*image.indices(len(self)))]
        device = self._devices[image]
        return tuple(tensor.to(device) for tensor in self._states[image])


class Cache:
    """Where all ``Kept`` of one run share a budget.

    Args:
        budget: bytes to hold in memory; ``None`` for everything.
        directory: existing directory for files; ``None`` makes a temporary one when it is needed.
    """

    def __init__(self, budget: float | None = None, directory: Path | None = None) -> None:
        self.budget = math.inf if budget is None else budget
        self.directory = directory
        self.in_memory = 0
        self.in_files = 0
        self._files: Path | None = None

    def keep(self, states: Iterable[State]) -> Kept:
        """All states, each put away as soon as it is there."""
        kept = Kept(self)
        for state in states:
            kept.append(state)
        return kept

    def new(self) -> Kept:
        """Room for states to come."""
        return Kept(self)

    def take(self, size: int) -> bool:
        """Take ``size`` bytes of the budget, if they are left."""
        if self.in_memory + size > self.budget:
            return False
        self.in_memory += size
        return True

    def release(self, taken: list[int]) -> None:
        """Give back bytes of the budget."""
        self.in_memory -= taken[0]

    def in_file(self, tensor: Tensor) -> Tensor:
        """The same tensor on the CPU, its bytes in a file.

        Args:
            tensor: has its storage for itself; see ``_own``.

        Raises:
            OutOfDisk: there is no room.
        """
        data = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).cpu()
        try:
            if self._files is None:
                self._files = _made(self.directory)
            handle, name = tempfile.mkstemp(dir=self._files, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(data.numpy().data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OutOfDisk(
                f"{self._files or self.directory}: no space left for activations ({error.strerror}); "
                "make room, allow more memory with --cache-gb, or use fewer calibration.images; "
                "finished parts of a run are kept, the same command goes on from there"
            ) from error
        mapped = torch.from_file(name, shared=False, size=tensor.numel(), dtype=tensor.dtype)
        if os.name == "posix":  # elsewhere a mapped file keeps its name, until ``close``
            Path(name).unlink()
        self.in_files += tensor.nbytes
        return mapped.as_strided(tensor.shape, tensor.stride())

    def close(self) -> None:
        """Remove the directory of files."""
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)
            self._files = None


@contextmanager
def opened_cache(budget: float | None, directory: Path | None) -> Iterator[Cache]:
    """A cache for as long as a block lasts."""
    cache = Cache(budget, directory)
    try:
        yield cache
    finally:
        cache.close()


def _made(directory: Path | None) -> Path:
    """A directory for files, without what a killed process left there."""
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="saqsam-activations-"))
    files = directory / ACTIVATIONS
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    return files


def _own(tensor: Tensor) -> Tensor:
    """The tensor, if it fills its storage, else a copy that does: the same in memory and in a file."""
    fills = tensor.untyped_storage().nbytes() == tensor.nbytes
    dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return tensor if fills and dense else tensor.clone(memory_format=torch.contiguous_format)
