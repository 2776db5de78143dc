"""A second reader of packed files, written from FORMAT.md alone: the standard library and numpy.

Run as ``python independent_reader.py PACKED OUT.npz``. It shares no code with saqsam, torch or safetensors,
so that the document and the program cannot be wrong in the same way.
"""

import hashlib
import json
import math
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

ORDER = [
    "scales",
    "activation_scales",
    "rest_f32",
    "rest_f16",
    "codes",
    "zero_points",
    "manifest",
    "digests",
    "seal",
]
DTYPES = {"F32": ("<f4", 4), "F16": ("<f2", 2), "U8": ("u1", 1)}


def stream_of_codes(data: bytes, bits: int, count: int) -> np.ndarray:
    """Section 3, in the words of the document: the stream is one little-endian integer."""
    assert len(data) == math.ceil(count * bits / 8)
    every_bit = np.unpackbits(np.frombuffer(data, dtype="u1"), bitorder="little")
    assert not every_bit[count * bits :].any()
    digits = every_bit[: count * bits].reshape(count, bits).astype(np.int64)
    return digits @ (1 << np.arange(bits))


def sections_of(raw: bytes) -> dict[str, bytes]:
    """Sections 1 and 4: cut the file up and verify the seal."""
    (length,) = struct.unpack("<Q", raw[:8])
    assert length <= 65536
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    about = header.pop("__metadata__")
    assert about["format"] == "saqsam-packed"
    assert about["version"] == "1"
    assert hashlib.sha256(raw[:-32]).digest() == raw[-32:]
    data, place, found = raw[8 + length :], 0, {}
    assert list(header) == ORDER
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        assert start == place
        assert entry["shape"] == [(stop - start) // DTYPES[entry["dtype"]][1]]
        found[name] = data[start:stop]
        place = stop
    assert place == len(data)
    return found


def read(path: str) -> tuple[dict[str, np.ndarray], dict]:
    """All tensors by name, quantized weights dequantized, and the manifest with activation scales added."""
    sections = sections_of(Path(path).read_bytes())
    left = {name: memoryview(data) for name, data in sections.items()}

    def take(section: str, size: int) -> bytes:
        piece = bytes(left[section][:size])
        assert len(piece) == size
        left[section] = left[section][size:]
        return piece

    def check(*parts: bytes) -> None:
        assert hashlib.sha256(b"".join(parts)).digest() == take("digests", 32)

    manifest = json.loads(zlib.decompress(take("manifest", len(sections["manifest"]))))
    tensors = {}
    for name, bits, shape in manifest["weights"]:
        codes = take("codes", math.ceil(math.prod(shape) * bits / 8))
        scales = take("scales", 4 * shape[0])
        zeros = take("zero_points", math.ceil(shape[0] * bits / 8))
        check(codes, scales, zeros)
        column = (shape[0],) + (1,) * (len(shape) - 1)
        scale = np.frombuffer(scales, dtype="<f4").reshape(column)
        zero = stream_of_codes(zeros, bits, shape[0]).reshape(column)
        code = stream_of_codes(codes, bits, math.prod(shape)).reshape(shape)
        tensors[f"{name}.weight"] = scale * (code - zero).astype(np.float32)
    for name, dtype, shape in manifest["rest"]:
        kind, width = DTYPES[dtype]
        data = take(f"rest_{dtype.lower()}", width * math.prod(shape))
        check(data)
        tensors[name] = np.frombuffer(data, dtype=kind).reshape(shape)
    for row in manifest["activations"]:
        row.append(struct.unpack("<f", take("activation_scales", 4))[0])
    check(sections["activation_scales"])
    check(sections["manifest"])
    assert take("seal", 32)
    assert not any(map(len, left.values()))
    return tensors, manifest


if __name__ == "__main__":
    everything, contents = read(sys.argv[1])
    assert not {"saqsam", "torch", "safetensors"} & set(sys.modules)
    np.savez(sys.argv[2], manifest=np.array(json.dumps(contents)), **everything)
