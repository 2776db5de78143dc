"""Activations of the calibration images between units: in memory up to a budget, beyond it in mapped files.

A mapped file holds the very bytes of a tensor with its strides, so results do not depend on the budget. Where
the system allows it, a file loses its name as soon as it is mapped: its space is free again when its tensor
is, even if the process is killed. Pages of mapped files leave the process when another state is asked for;
otherwise they would count as its memory until their list is gone.
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
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from saqsam.errors import OutOfDisk
from saqsam.families.record import State
from saqsam.freed_memory import give_back_pages

ACTIVATIONS = "activations"
"""Name of the directory of files in a run directory, while there are any."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Kept(Sequence[State]):
    """One state for each image; a state in a file comes back on the device where it was made."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._states: list[State] = []
        self._devices: list[torch.device] = []
        weakref.finalize(self, _let_go, cache, self._states)

    def append(self, state: State) -> None:
        """Add the next image's state.

        Raises:
            OutOfDisk: it has to go into a file, and there is no room for it.
        """
        self._devices.append(state[0].device)
        self._states.append(tuple(self._cache.hold(tensor) for tensor in state))

    def drop(self, image: int) -> None:
        """Give up one image's state, and the memory that it takes; asked for again, it is an empty tuple."""
        _let_go(self._cache, [self._states[image]])
        self._states[image] = ()

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, image: int) -> State: ...

    @overload
    def __getitem__(self, image: slice) -> list[State]: ...

    def __getitem__(self, image: int | slice) -> State | list[State]:
        if isinstance(image, slice):
            return [self[index] for index in range(*image.indices(len(self)))]
        self._cache.give_back_pages()
        device = self._devices[image]
        return tuple(tensor.to(device) for tensor in self._states[image])


@dataclass
class _Holding:
    """A tensor that is kept, whether it lies in a file, and how many lists keep it."""

    tensor: Tensor
    in_file: bool = False
    lists: int = 0

    @property
    def size(self) -> int:
        """Bytes of the budget that it takes."""
        return 0 if self.in_file else self.tensor.nbytes


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
        self._holdings: dict[int, _Holding] = {}
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

    def hold(self, tensor: Tensor) -> Tensor:
        """The tensor, or its like in a file, for one more list.

        What other lists keep is kept once: the finer levels of a SAM 2 pass through most blocks as they are,
        and are larger than all that those blocks change.

        Raises:
            OutOfDisk: it has to go into a file, and there is no room for it.
        """
        holding = self._holdings.get(id(tensor))
        if holding is None:
            own = _own(tensor)
            fits = self.in_memory + own.nbytes <= self.budget
            holding = _Holding(own) if fits else _Holding(self.in_file(own), in_file=True)
            self.in_memory += holding.size
            self._holdings[id(holding.tensor)] = holding
        holding.lists += 1
        return holding.tensor

    def let_go(self, tensor: Tensor) -> None:
        """One list less keeps a tensor that ``hold`` returned."""
        holding = self._holdings[id(tensor)]
        holding.lists -= 1
        if not holding.lists:
            self.in_memory -= holding.size
            del self._holdings[id(tensor)]

    def give_back_pages(self) -> None:
        """Leave what was read from files to the system; it is read again when it is asked for."""
        holdings = list(self._holdings.values())  # a list that is let go of meanwhile changes them
        give_back_pages((each.tensor.data_ptr(), each.tensor.nbytes) for each in holdings if each.in_file)

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
        # Not Python's own mapping, which holds a descriptor for as long as it lives: there are only so many.
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


def _let_go(cache: Cache, states: list[State]) -> None:
    """Nobody asks for these states any more."""
    for state in states:
        for tensor in state:
            cache.let_go(tensor)


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
