"""PyTorch's file format from before 1.6, judged before anything of it is loaded.

Such a file is five pickles (magic number, protocol, machine, objects, list of storages) and then the bytes
of the storages. The fourth says how large each storage is, and ``torch.load`` would allocate that much
before it looks whether the bytes are there; so the fourth is walked through first, with stand-ins for every
object it names, and its claims are compared with the size of the file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saqsam.checkpoints.pickles import refuse_globals
from saqsam.errors import CorruptCheckpoint

_OBJECTS = 3  # the fourth pickle
_AGAIN = "Download or copy it again"
_STATES = (
    AttributeError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    pickle.UnpicklingError,
)


def check_legacy(path: Path, limit: int, also: Iterable[type] = ()) -> None:
    """Refuse a file of the old format that names strange objects or claims more than it holds.

    Args:
        path: the file.
        limit: most bytes that its pickles may take.
        also: plain classes that they may name beside tensors.

    Raises:
        UnsafeCheckpoint: loading it would import and run something else.
        CorruptCheckpoint: no such file, cut short, or its tensors claim more bytes than it has.
    """
    also = tuple(also)
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(limit))
    claimed = 0
    for index in range(_OBJECTS + 1):
        start = stream.tell()
        refuse_globals(path, stream.getvalue()[start:], also)
        inert = _Inert(stream)
        try:
            inert.load()
        except _STATES as error:
            raise CorruptCheckpoint(path, f"damaged PyTorch file ({error})", _AGAIN) from error
        if index == _OBJECTS:
            claimed = sum(inert.storages.values())
    size = path.stat().st_size
    if claimed > size:
        raise CorruptCheckpoint(
            path, f"its tensors claim {claimed:,} bytes but the file has {size:,}", _AGAIN
        )


class _Nothing(dict[Any, Any]):
    """Stands for every object and class of the pickle: can be called, filled and given a state."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        return None

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *arguments: Any) -> _Nothing:
        return _Nothing()


class _Inert(pickle.Unpickler):
    """Walks through a pickle without importing, calling or allocating what it names.

    Attributes:
        storages: key of each storage -> bytes it claims.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        size = _ITEM_BYTES.get(name.removesuffix("Storage"))
        return _Storage(size) if size is not None else _Nothing

    def persistent_load(self, identifier: Any) -> Any:
        kind, key, numel = identifier[1], identifier[2], identifier[4]
        if identifier[0] != "storage" or not isinstance(kind, _Storage) or not isinstance(numel, int):
            raise pickle.UnpicklingError("a reference to something that is not a storage")
        if numel < 0 or numel >= 2**48:
            raise pickle.UnpicklingError(f"a storage of {numel} elements")
        self.storages[str(key)] = max(self.storages.get(str(key), 0), numel * kind.item_bytes)
        return _Nothing()


class _Storage(_Nothing):
    """Stands for a storage class."""

    def __init__(self, item_bytes: int) -> None:
        super().__init__()
        self.item_bytes = item_bytes


_ITEM_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
