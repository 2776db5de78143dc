"""Packed files: one safetensors file holding a quantized SAM at its true bits, every byte under a hash.

The public names of the format in one place. FORMAT.md describes the file to the last byte.
"""

from __future__ import annotations

from saqsam.pack.container import FORMAT_VERSION
from saqsam.pack.contents import PackedActivation, PackedModel, PackedWeight
from saqsam.pack.reading import is_packed, read_packed
from saqsam.pack.writing import write_packed

__all__ = [
    "FORMAT_VERSION",
    "PackedActivation",
    "PackedModel",
    "PackedWeight",
    "is_packed",
    "read_packed",
    "write_packed",
]
