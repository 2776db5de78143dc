"""The table of contents of a packed file: names, widths and shapes, and the JSON kept beside them.

It is a compact JSON object, compressed with zlib. Offsets are not stored: the rows are in file order
and each row says how many bytes it takes, so that there is nothing that could contradict itself.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saqsam.grids.registry import find_grid
from saqsam.pack.bits import packed_size
from saqsam.pack.container import ITEM_BYTES, parse_json
from saqsam.pack.contents import (
    FLOAT_DTYPES,
    MAX_CODES,
    Malformed,
    PackedActivation,
    check_bits,
)

MAX_MANIFEST = 1 << 22  # bytes of JSON; SAM-H needs about 0.2e6
MAX_ROWS = 20_000
MAX_CHANNELS = 1 << 16  # of one activation; SAM-H has at most 5,120
_KEYS = {"weights", "activations", "rest", "config", "recipe", "records"}


@dataclass(frozen=True)
class WeightRow:
    """One quantized weight: its codes, scales and zero points each follow those of the row before."""

    name: str
    bits: int
    shape: tuple[int, ...]

    @property
    def code_bytes(self) -> int:
        return packed_size(math.prod(self.shape), self.bits)

    @property
    def zero_point_bytes(self) -> int:
        return packed_size(self.shape[0], self.bits)


@dataclass(frozen=True)
class ActivationRow:
    """One activation grid, apart from its scales, which are in the section ``activation_scales``.

    Attributes:
        zero_point: on a grouped grid one for each group, else one number.
        detail: affine: 0. log2: tau. hybrid: logarithmic levels. grouped: the group of each channel.
    """

    name: str
    grid: str
    bits: int
    zero_point: int | tuple[int, ...]
    detail: int | tuple[int, ...]

    @property
    def scales(self) -> int:
        """How many float32 numbers the grid has; one, of a grid that nobody knows."""
        kind = find_grid(self.grid)
        return 1 if kind is None else kind.count_numbers(self.zero_point)

    @classmethod
    def of(cls, name: str, grid: PackedActivation) -> ActivationRow:
        """The row of a grid."""
        return cls(name, grid.grid, grid.bits, grid.zero_point, grid.detail)

    def with_scales(self, scales: Sequence[float]) -> PackedActivation:
        """The grid, given its float32 numbers; that it obeys the rules is for ``check_contents`` to see."""
        several = len(scales) > 1 or isinstance(self.zero_point, tuple)
        scale = tuple(scales) if several else scales[0]
        return PackedActivation(self.grid, self.bits, scale, self.zero_point, self.detail)


@dataclass(frozen=True)
class RestRow:
    """One float tensor: it follows the row before that has the same dtype (``"F16"`` or ``"F32"``)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Manifest:
    """Rows in file order, and the three JSON objects kept as they are."""

    weights: tuple[WeightRow, ...]
    activations: tuple[ActivationRow, ...]
    rest: tuple[RestRow, ...]
    config: dict[str, Any]
    recipe: dict[str, Any]
    records: dict[str, Any]

    def section_bytes(self) -> dict[str, int]:
        """Size of every section that the rows determine."""
        sizes = {
            "scales": 4 * sum(row.shape[0] for row in self.weights),
            "activation_scales": 4 * sum(row.scales for row in self.activations),
            "codes": sum(row.code_bytes for row in self.weights),
            "zero_points": sum(row.zero_point_bytes for row in self.weights),
            "digests": 32 * (len(self.weights) + len(self.rest) + 2),
        }
        for dtype in FLOAT_DTYPES:
            sizes[f"rest_{dtype.lower()}"] = sum(row.bytes for row in self.rest if row.dtype == dtype)
        return sizes


def encode_manifest(manifest: Manifest) -> bytes:
    """Compressed bytes; equal manifests give equal JSON, whatever the order of their keys.

    Raises:
        Malformed: config, recipe or records hold something JSON cannot, or everything together is too big.
    """
    table = {
        "weights": [[row.name, row.bits, list(row.shape)] for row in manifest.weights],
        "activations": [
            [row.name, row.grid, row.bits, row.zero_point, row.detail] for row in manifest.activations
        ],
        "rest": [[row.name, row.dtype, list(row.shape)] for row in manifest.rest],
    }
    for part in ("config", "recipe", "records"):
        table[part] = _plain(getattr(manifest, part), part)
    text = json.dumps(table, separators=(",", ":"), sort_keys=True).encode()
    if len(text) > MAX_MANIFEST:
        raise Malformed("records", f"the manifest has {len(text)} bytes, more than the limit {MAX_MANIFEST}")
    return zlib.compress(text, 9)


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Decompress within a limit, parse strictly, and check the form of every row.

    Raises:
        Malformed: naming the manifest or the row.
    """
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, MAX_MANIFEST)
    except zlib.error as problem:
        raise Malformed("manifest", f"it cannot be decompressed ({problem})") from None
    if not inflate.eof or inflate.unused_data:
        raise Malformed(
            "manifest", f"it is cut off, followed by something, or larger than {MAX_MANIFEST} bytes"
        )
    table = parse_json(text, "manifest")
    if set(table) != _KEYS:
        raise Malformed("manifest", "it does not have exactly the keys of the format")
    lists = [table[part] for part in ("weights", "activations", "rest")]
    if not all(isinstance(rows, list) for rows in lists) or sum(map(len, lists)) > MAX_ROWS:
        raise Malformed("manifest", f"it does not list weights, activations and rest in {MAX_ROWS} rows")
    if not all(isinstance(table[part], dict) for part in ("config", "recipe", "records")):
        raise Malformed("manifest", "config, recipe or records is not an object")
    weights = tuple(_weight_row(row) for row in table["weights"])
    activations = tuple(_activation_row(row) for row in table["activations"])
    rest = tuple(_rest_row(row) for row in table["rest"])
    if sum(math.prod(row.shape) for row in weights) > MAX_CODES:
        raise Malformed("manifest", f"more than {MAX_CODES} codes in total")
    for rows in (weights, activations, rest):
        if len({row.name for row in rows}) != len(rows):
            raise Malformed("manifest", "a name occurs twice")
    return Manifest(weights, activations, rest, table["config"], table["recipe"], table["records"])


def _weight_row(row: object) -> WeightRow:
    name, bits, shape = _fields(row, 3)
    check_bits(name, bits)
    sizes = _shape(name, shape)
    if not sizes or min(sizes) < 1:
        raise Malformed(name, f"a weight has at least one element, not shape {sizes}")
    return WeightRow(name, bits, sizes)


def _activation_row(row: object) -> ActivationRow:
    name, grid, bits, zero_point, detail = _fields(row, 5)
    check_bits(name, bits)
    kind = find_grid(grid) if isinstance(grid, str) else None
    if kind is not None and kind.lists:
        return ActivationRow(name, grid, bits, _whole_numbers(name, zero_point), _whole_numbers(name, detail))
    if not isinstance(grid, str) or any(type(value) is not int for value in (zero_point, detail)):
        raise Malformed(name, "its row is not a name, a grid and three whole numbers")
    return ActivationRow(name, grid, bits, zero_point, detail)


def _whole_numbers(name: str, found: object) -> tuple[int, ...]:
    if not isinstance(found, list) or not found or any(type(value) is not int for value in found):
        raise Malformed(name, "its zero points or its groups are not a list of whole numbers")
    if len(found) > MAX_CHANNELS:
        raise Malformed(name, f"it has more than {MAX_CHANNELS} channels")
    return tuple(found)


def _rest_row(row: object) -> RestRow:
    name, dtype, shape = _fields(row, 3)
    if not isinstance(dtype, str) or dtype not in FLOAT_DTYPES:
        raise Malformed(name, f"its dtype {str(dtype)[:20]!r} is neither F16 nor F32")
    return RestRow(name, dtype, _shape(name, shape))


def _fields(row: object, count: int) -> list[Any]:
    if not isinstance(row, list) or len(row) != count or not isinstance(row[0], str):
        raise Malformed("manifest", f"a row is not a name and {count - 1} fields")
    return row


def _shape(name: str, shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > 8 or any(type(size) is not int for size in shape):
        raise Malformed(name, "its shape is not a list of at most 8 whole numbers")
    if any(not 0 <= size <= MAX_CODES for size in shape) or math.prod(shape) > MAX_CODES:
        raise Malformed(name, f"its shape {shape} is negative or has more than {MAX_CODES} elements")
    return tuple(shape)


def _plain(value: object, part: str) -> object:
    """``value`` as JSON gives it back: keys become strings, tuples lists; NaN is refused."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as problem:
        raise Malformed(part, f"it is not plain JSON ({problem})") from None
