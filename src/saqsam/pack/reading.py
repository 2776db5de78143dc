"""From the bytes of a packed file to its contents, with everything verified on the way.

The file is read into memory once and verified there, so that what is returned is what was hashed.
Nothing in a file names another file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saqsam import __version__
from saqsam.checkpoints.paths import refuse_placeholder
from saqsam.errors import CheckpointError, CorruptCheckpoint
from saqsam.files import what_is_there
from saqsam.pack.bits import unpack
from saqsam.pack.container import (
    FORMAT_VERSION,
    MAX_FILE,
    MAX_HEADER,
    SEAL_BYTES,
    Header,
    is_sealed,
    locate_sections,
    looks_packed,
    parse_header,
)
from saqsam.pack.contents import (
    NUMPY_DTYPES,
    Malformed,
    PackedActivation,
    PackedModel,
    PackedWeight,
    check_contents,
)
from saqsam.pack.manifest import ActivationRow, Manifest, RestRow, WeightRow, decode_manifest

_AGAIN = "Copy or download the file again, or quantize again"


def is_packed(path: str | Path) -> bool:
    """Whether a file says that it is a packed one; this says nothing about whether it is intact.

    False for directories and for files that are missing or cannot be opened.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return looks_packed(file.read(1024))
    except OSError:
        return False


def read_packed(path: str | Path) -> PackedModel:
    """Read a packed file, verifying every byte of it first.

    Returns:
        The contents; tensors are on the CPU and belong to the caller. ``config``, ``recipe`` and ``records``
        are as JSON gives them back: keys are strings, tuples have become lists.

    Raises:
        CorruptCheckpoint: it is truncated or extended, or any bit is not as it was written.
        CheckpointError: it cannot be opened, or it is intact but in another version of the format.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(path, what_is_there(path), "A packed model is one file; give its path")
    try:
        raw, header = _read_file(path)
        if header.version != str(FORMAT_VERSION):
            raise _other_version(path, raw, header)
        return _decode(raw, header)
    except Malformed as problem:
        raise CorruptCheckpoint(path, f"not an intact packed file: {problem}", _AGAIN) from problem
    except OSError as problem:
        hint = "Check its path and permissions"
        raise CheckpointError(path, f"cannot be read ({problem.strerror or problem})", hint) from problem


def _read_file(path: Path) -> tuple[memoryview, Header]:
    """The whole file and its parsed header; the header is judged before anything large is read."""
    with path.open("rb") as file:
        head = file.read(8 + MAX_HEADER)
        refuse_placeholder(path, head)
        header = parse_header(head)
        file_bytes = file.seek(0, 2)
        if file_bytes > MAX_FILE:
            raise Malformed("file", f"it has {file_bytes} bytes, more than the limit {MAX_FILE}")
        if header.version == str(FORMAT_VERSION):
            locate_sections(header, file_bytes)
        raw = bytearray(file_bytes)
        file.seek(0)
        if file.readinto(raw) != file_bytes or file.read(1):
            raise Malformed("file", "its size changed while it was read")
    # Parsed again from the bytes that are kept: the file could have changed in between.
    return memoryview(raw), parse_header(bytes(raw[: 8 + MAX_HEADER]))


def _other_version(path: Path, raw: memoryview, header: Header) -> Exception:
    """The error for a version that is not ours: a real one is sealed, a damaged digit is not."""
    if not is_sealed(raw):
        return Malformed(
            "file", f"its SHA-256 disagrees with its bytes; it claims version {header.version[:20]!r}"
        )
    return CheckpointError(
        path,
        f"it is in version {header.version[:20]!r} of the packed format, written by {header.writer[:40]!r}; "
        f"saqsam {__version__} reads version {FORMAT_VERSION}",
        "Upgrade saqsam, or quantize again with this one",
    )


@dataclass(frozen=True)
class _Pieces:
    """Where each row's bytes are, in file order."""

    weights: list[tuple[WeightRow, memoryview, memoryview, memoryview]]  # codes, scales, zero points
    rest: list[tuple[RestRow, memoryview]]


def _decode(raw: memoryview, header: Header) -> PackedModel:
    """Contents of a file of this version; raises ``Malformed`` unless all hashes and all rules hold."""
    places = locate_sections(header, len(raw))
    sections = {name: raw[place] for name, place in places.items()}
    sealed = is_sealed(raw)
    # A broken seal says that something is damaged; the digests, so far as they can be read, say what.
    if sections["digests"][-SEAL_BYTES:] != hashlib.sha256(sections["manifest"]).digest():
        raise Malformed("manifest", "its SHA-256 disagrees with its bytes")
    manifest = decode_manifest(sections["manifest"])
    for name, size in manifest.section_bytes().items():
        if len(sections[name]) != size:
            raise Malformed(name, f"it has {len(sections[name])} bytes, the manifest says {size}")
    pieces = _cut(sections, manifest)
    _compare_digests(sections, pieces)
    if not sealed:
        raise Malformed("file", "its SHA-256 disagrees with its header or its digests")
    packed = PackedModel(
        config=manifest.config,
        recipe=manifest.recipe,
        weights={row.name: _weight(row, *parts) for row, *parts in pieces.weights},
        activations=_activations(manifest.activations, sections["activation_scales"]),
        rest={row.name: _tensor(data, row.dtype).reshape(row.shape) for row, data in pieces.rest},
        records=manifest.records,
    )
    check_contents(packed)
    return packed


def _cut(sections: dict[str, memoryview], manifest: Manifest) -> _Pieces:
    """Give every row its bytes; the sections are known to have the right sizes."""
    used = dict.fromkeys(sections, 0)

    def take(section: str, size: int) -> memoryview:
        start = used[section]
        used[section] = start + size
        return sections[section][start : start + size]

    weights = [
        (
            row,
            take("codes", row.code_bytes),
            take("scales", 4 * row.shape[0]),
            take("zero_points", row.zero_point_bytes),
        )
        for row in manifest.weights
    ]
    rest = [(row, take(f"rest_{row.dtype.lower()}", row.bytes)) for row in manifest.rest]
    return _Pieces(weights, rest)


def _compare_digests(sections: dict[str, memoryview], pieces: _Pieces) -> None:
    """Hold every tensor against its own SHA-256, so that an error can name it."""
    hashed: list[tuple[str, tuple[memoryview, ...]]] = []
    hashed += [(row.name, tuple(parts)) for row, *parts in pieces.weights]
    hashed += [(row.name, (data,)) for row, data in pieces.rest]
    hashed += [("activation_scales", (sections["activation_scales"],))]
    for place, (name, parts) in enumerate(hashed):
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        if digest.digest() != sections["digests"][place * SEAL_BYTES : (place + 1) * SEAL_BYTES]:
            raise Malformed(name, "its SHA-256 disagrees with its bytes")


def _weight(row: WeightRow, codes: memoryview, scale: memoryview, zero_point: memoryview) -> PackedWeight:
    try:
        return PackedWeight(
            codes=unpack(_tensor(codes, "U8"), row.bits, row.shape),
            scale=_tensor(scale, "F32"),
            zero_point=unpack(_tensor(zero_point, "U8"), row.bits, row.shape[0]),
            bits=row.bits,
        )
    except ValueError as problem:
        raise Malformed(row.name, str(problem)) from problem


def _activations(rows: tuple[ActivationRow, ...], scales: memoryview) -> dict[str, PackedActivation]:
    values = iter(np.frombuffer(scales, dtype=NUMPY_DTYPES["F32"]).tolist())
    return {row.name: row.with_scales(list(islice(values, row.scales))) for row in rows}


def _tensor(data: memoryview, dtype: str) -> Tensor:
    """A tensor of its own from little-endian bytes; the native byte order is what torch needs."""
    array = np.frombuffer(data, dtype=NUMPY_DTYPES[dtype])
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
