"""What a pickle would import, read from its opcodes without running any of them."""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from saqsam.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint

MAX_OPCODES = 300_000  # SAM-H has some 25 thousand
_SHOWN = 8
_AGAIN = "Download or copy it again"
_REBUILDERS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.device",
        "collections.Counter",  # milestones of a learning-rate schedule
    }
)
_STORAGES = frozenset(
    f"torch.{kind}Storage"
    for kind in (
        *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
        "ComplexFloat",  # angles of rotary positions
    )
)
_PLAIN = _REBUILDERS | _STORAGES
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")


def refuse_globals(path: Path, data: bytes, also: Iterable[type] = ()) -> None:
    """Refuse a pickle that names anything but tensors.

    Args:
        path: the file, for messages.
        data: the pickle.
        also: plain classes that it may name as well.

    Raises:
        UnsafeCheckpoint: naming what it would import.
        CorruptCheckpoint: not a pickle.
    """
    found = _globals_of(path, data)[0]
    strange = sorted(found - _PLAIN - {f"{kind.__module__}.{kind.__qualname__}" for kind in also})
    if strange:
        listed = ", ".join(strange[:_SHOWN]) + (
            f" and {len(strange) - _SHOWN} more" if strange[_SHOWN:] else ""
        )
        raise UnsafeCheckpoint(
            path,
            f"opening it would import and run Python objects ({listed}); nothing was run, and there is no "
            "unsafe fallback",
            "In the program that wrote it, save the tensors alone: "
            "torch.save(model.state_dict(), 'weights.pth'), or use safetensors",
        )


def refuse_legacy(path: Path, limit: int) -> NoReturn:
    """Refuse PyTorch's format from before 1.6, which cannot be checked before it is read.

    Raises:
        UnsafeCheckpoint: where it also names Python objects; the message lists them.
        CheckpointError: where it holds tensors alone; the message says how to convert it.
        CorruptCheckpoint: where it is no pickle at all.
    """
    with path.open("rb") as file:
        data = file.read(limit)
    # Magic number, protocol and machine come first, each a pickle of its own; the objects are the fourth.
    pickles = 0
    while data and pickles < 5:
        try:
            length = _globals_of(path, data)[1]
        except CorruptCheckpoint:
            if pickles == 0:
                raise
            break
        refuse_globals(path, data[:length])
        data, pickles = data[length:], pickles + 1
    raise CheckpointError(
        path,
        "a pickle in the format of PyTorch before 1.6, or not from PyTorch",
        "If it holds tensors, convert it: "
        "torch.save(torch.load('old.pth', weights_only=True), 'weights.pth')",
    )


def _globals_of(path: Path, data: bytes) -> tuple[set[str], int]:
    """Dotted names that the first pickle in ``data`` imports, and that pickle's length in bytes."""
    found: set[str] = set()
    recent: list[str] = []
    end = 0
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise CorruptCheckpoint(path, "its table of tensors is far too large for a SAM", _AGAIN)
            if opcode.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(recent[-2:]) or "something unnamed")
            elif opcode.name in ("EXT1", "EXT2", "EXT4"):
                found.add("a copyreg extension")
            elif opcode.name in _STRINGS:
                recent = [*recent[-1:], str(argument)]
            end = (position or 0) + 1
    except (ValueError, UnicodeDecodeError, OverflowError, IndexError) as error:
        raise CorruptCheckpoint(path, "damaged, or not a file of PyTorch weights", _AGAIN) from error
    return found, end
