"""From contents to the bytes of a packed file."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import torch
from torch import Tensor

from saqsam import __version__
from saqsam.errors import InvariantError
from saqsam.files import atomic_write
from saqsam.pack.bits import pack
from saqsam.pack.container import SECTIONS, assemble
from saqsam.pack.contents import (
    FLOAT_DTYPES,
    NUMPY_DTYPES,
    Malformed,
    PackedModel,
    PackedWeight,
    check_contents,
)
from saqsam.pack.manifest import ActivationRow, Manifest, RestRow, WeightRow, encode_manifest

_NAMES = {dtype: name for name, dtype in FLOAT_DTYPES.items()}


def write_packed(path: str | Path, packed: PackedModel) -> None:
    """Write one packed file; it appears whole or not at all.

    Equal contents give equal files, whatever the order of their dictionaries.

    Raises:
        InvariantError: the contents break a rule of :class:`PackedModel`; nothing is written.
    """
    try:
        check_contents(packed)
        chunks = assemble(_encode_sections(packed), f"saqsam {__version__}")
    except Malformed as problem:
        raise InvariantError(problem.where, f"cannot be packed: {problem.problem}") from problem
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        for chunk in chunks:
            out.write(chunk)


def _encode_sections(packed: PackedModel) -> dict[str, list[bytes]]:
    """All sections but the seal, each as the chunks it consists of."""
    weights = sorted(packed.weights.items())
    activations = sorted(packed.activations.items())
    rest = sorted(packed.rest.items())
    sections: dict[str, list[bytes]] = {name: [] for name in SECTIONS if name != "seal"}
    for name, weight in weights:
        parts = _encode_weight(name, weight)
        for section, part in parts.items():
            sections[section].append(part)
        sections["digests"].append(hashlib.sha256(b"".join(parts.values())).digest())
    for _, tensor in rest:
        data = _tensor_bytes(tensor)
        sections[f"rest_{_NAMES[tensor.dtype].lower()}"].append(data)
        sections["digests"].append(hashlib.sha256(data).digest())
    scales = b"".join(_float32(name, scale) for name, grid in activations for scale in grid.scales)
    manifest = Manifest(
        weights=tuple(WeightRow(name, weight.bits, tuple(weight.codes.shape)) for name, weight in weights),
        activations=tuple(ActivationRow.of(name, grid) for name, grid in activations),
        rest=tuple(RestRow(name, _NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in rest),
        config=packed.config,
        recipe=packed.recipe,
        records=packed.records,
    )
    for section, data in (("activation_scales", scales), ("manifest", encode_manifest(manifest))):
        sections[section].append(data)
        sections["digests"].append(hashlib.sha256(data).digest())
    return sections


def _encode_weight(name: str, weight: PackedWeight) -> dict[str, bytes]:
    """The three parts of a weight, in the order in which its digest reads them."""
    try:
        codes = pack(weight.codes, weight.bits)
        zero_points = pack(weight.zero_point, weight.bits)
    except ValueError as problem:
        raise Malformed(name, str(problem)) from problem
    return {
        "codes": _tensor_bytes(codes),
        "scales": _tensor_bytes(weight.scale),
        "zero_points": _tensor_bytes(zero_points),
    }


def _tensor_bytes(tensor: Tensor) -> bytes:
    """Row-major little-endian bytes of a uint8, float16 or float32 tensor."""
    array = tensor.detach().cpu().contiguous().numpy()
    return array.astype(NUMPY_DTYPES[_NAMES.get(tensor.dtype, "U8")], copy=False).tobytes()


def _float32(name: str, scale: float) -> bytes:
    """Four bytes that stand for exactly ``scale``: what was evaluated is what is stored."""
    if float(torch.tensor(scale, dtype=torch.float32)) != scale:
        raise Malformed(name, f"its scale {scale!r} is no float32 number; round it before it is used")
    return struct.pack("<f", scale)
