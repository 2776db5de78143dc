"""One atomic file of tensors with a JSON record in it, and a hash over both."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from saqsam.errors import CorruptCheckpoint
from saqsam.files import atomic_write

_HINT = "Delete the file to have this part done again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write the file, all of it or none.

    Args:
        path: its directory exists.
        tensors: on any device.
        record: plain JSON types.

    Raises:
        OSError: it cannot be written, because the disk is full for one.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(record, sort_keys=True)
    with atomic_write(path) as temporary:
        try:
            save_file(kept, temporary, {"record": text, "sha256": _digest(kept, text)})
        except SafetensorError as error:  # a failed write has no type of its own there, only its number
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a file written by ``write_tensors``.

    Raises:
        CorruptCheckpoint: the file is damaged.
    """
    data = path.read_bytes()
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        text, digest = metadata["record"], metadata["sha256"]
        record = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(path, "it is no file of a run, or it is cut short", _HINT) from error
    if digest != _digest(tensors, text):
        raise CorruptCheckpoint(path, "its hash disagrees with its contents", _HINT)
    return tensors, record


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
