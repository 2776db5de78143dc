"""The outer shell of a packed file: one safetensors file with nine tensors and a seal.

Everything is in a few flat tensors, because a safetensors header spends about a hundred bytes on every
tensor it lists. The last tensor, ``seal``, is the SHA-256 of all bytes before it, header included.
See FORMAT.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saqsam.pack.contents import Malformed

FORMAT_NAME = "saqsam-packed"
FORMAT_VERSION = 1
SEAL_BYTES = 32
MAX_HEADER = 1 << 16  # version 1 needs under a kilobyte
MAX_FILE = 1 << 30  # SAM-H at 8 bits with a float32 rest has 0.7e9 bytes
# In file order. Wide types come first, so that every section is aligned to its type.
SECTIONS = {
    "scales": "F32",
    "activation_scales": "F32",
    "rest_f32": "F32",
    "rest_f16": "F16",
    "codes": "U8",
    "zero_points": "U8",
    "manifest": "U8",
    "digests": "U8",
    "seal": "U8",
}
ITEM_BYTES = {"F32": 4, "F16": 2, "U8": 1}
# Either shows that a file means to be a packed one, even if the other has been damaged.
_MARKS = (f'"format":"{FORMAT_NAME}"'.encode(), b'"seal":{"dtype":"U8"')


@dataclass(frozen=True)
class Header:
    """The parsed start of a file: what it says it is, and its tensors as safetensors lists them."""

    version: str
    writer: str
    tensors: dict[str, Any]
    end: int  # where the data begin, in bytes from the start of the file


def encode_header(sizes: Mapping[str, int], writer: str) -> bytes:
    """The first bytes of a file whose sections have the given sizes in bytes (``seal`` included)."""
    metadata = {"format": FORMAT_NAME, "version": str(FORMAT_VERSION), "writer": writer}
    tensors: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, dtype in SECTIONS.items():
        stop = start + sizes[name]
        tensors[name] = {
            "dtype": dtype,
            "shape": [sizes[name] // ITEM_BYTES[dtype]],
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the data to eight bytes
    return len(text).to_bytes(8, "little") + text


def assemble(sections: Mapping[str, Sequence[bytes]], writer: str) -> list[bytes]:
    """A whole file as chunks to be written one after the other; ``sections`` lacks the seal only."""
    sizes = {name: sum(map(len, chunks)) for name, chunks in sections.items()}
    if sum(sizes.values()) > MAX_FILE - MAX_HEADER:
        raise Malformed("file", f"it would have more than {MAX_FILE} bytes")
    chunks = [encode_header({**sizes, "seal": SEAL_BYTES}, writer)]
    for name in SECTIONS:
        chunks += sections.get(name, ())
    seal = hashlib.sha256()
    for chunk in chunks:
        seal.update(chunk)
    return [*chunks, seal.digest()]


def looks_packed(head: bytes) -> bool:
    """Whether the first kilobyte of a file carries the marks of this format."""
    return any(mark in head for mark in _MARKS)


def header_length(head: bytes) -> int:
    """Bytes of the JSON header that the first eight bytes of a file announce."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or not 2 <= length <= MAX_HEADER:
        raise Malformed("header", f"its length is not within 2 to {MAX_HEADER} bytes")
    return length


def parse_header(head: bytes) -> Header:
    """Parse the length and the JSON that follows it; says nothing yet about the sections."""
    end = 8 + header_length(head)
    if len(head) < end:
        raise Malformed("header", "the file ends inside it")
    tensors = parse_json(head[8:end], "header")
    metadata = tensors.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_NAME:
        raise Malformed("header", f"it does not name the format {FORMAT_NAME!r}")
    version, writer = metadata.get("version"), metadata.get("writer")
    if not isinstance(version, str) or not isinstance(writer, str):
        raise Malformed("header", "it lacks the version of the format or the name of the writer")
    return Header(version, writer, tensors, end)


def locate_sections(header: Header, file_bytes: int) -> dict[str, slice]:
    """Where each section lies in the file; together they fill it to the last byte, without gaps."""
    if set(header.tensors) != set(SECTIONS):
        raise Malformed("header", "it does not list exactly the tensors of the format")
    places: dict[str, slice] = {}
    start = 0
    for name, dtype in SECTIONS.items():
        entry = header.tensors[name]
        size = _section_bytes(entry, start)
        if entry != {
            "dtype": dtype,
            "shape": [size // ITEM_BYTES[dtype]],
            "data_offsets": [start, start + size],
        }:
            raise Malformed("header", f"tensor {name!r} is not where, or not what, the format says")
        places[name] = slice(header.end + start, header.end + start + size)
        start += size
    if header.end + start != file_bytes:
        raise Malformed("file", f"it has {file_bytes} bytes, its header announces {header.end + start}")
    if places["seal"].stop - places["seal"].start != SEAL_BYTES:
        raise Malformed("header", f"the seal is not {SEAL_BYTES} bytes long")
    return places


def is_sealed(raw: memoryview) -> bool:
    """Whether the last 32 bytes are the SHA-256 of all bytes before them, as in every version."""
    return hashlib.sha256(raw[:-SEAL_BYTES]).digest() == raw[-SEAL_BYTES:]


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """Strict JSON: UTF-8, an object, no key twice, no NaN or infinity.

    Raises:
        Malformed: naming ``where``.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as problem:
        raise Malformed(where, f"it is not strict JSON ({type(problem).__name__})") from None
    if not isinstance(value, dict):
        raise Malformed(where, "it is not a JSON object")
    return value


def _section_bytes(entry: object, start: int) -> int:
    """Size of a section by its own offsets; 0 where they make no sense, which then fails to compare."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and type(offsets[1]) is int:
        return max(0, offsets[1] - start)
    return 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key occurs twice")
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError("a number is not finite")
    return number
