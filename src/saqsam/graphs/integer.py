"""Quantized products in integers, with ONNX Runtime's own operators.

``MatMulIntegerToFloat`` multiplies unsigned codes with integers, adds up exactly in 32 bits, and scales the
sum once: the same number as the simulation's float product up to one rounding. Where a grid has no integer
product, on the logarithmic one, the operand stays float.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from saqsam.graphs.exactness import Exactness
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Arrange, Portable
from saqsam.graphs.source import Source, codes_of
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.pack.file import PackedWeight

_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class _Operand:
    """An integer operand of the graph: values are ``scale * (codes - zero_point)``."""

    codes: str
    scale: float
    zero_point: str


class Integer(Portable):
    """Quantized layers and attention products in integers.

    Args:
        graph: where nodes go.
        source: integers, scales and zero points.
        exactness: what this machine multiplies exactly.
    """

    largest_piece: ClassVar[int | None] = 1 << 22
    """A quarter of a SAM-B's map of global attention, 16 MB as float, at a time."""

    def __init__(self, graph: Graph, source: Source, exactness: Exactness) -> None:
        super().__init__(graph, source)
        self.exactness = exactness
        self._codes: dict[tuple[str, str, str], _Operand] = {}

    def on_grid(self, x: str, grid: Grid) -> str:
        """As of ``Portable``, by the fastest operators."""
        return grid.onnx_fast(self.graph, x)

    def rounded_at(self, site: str) -> list[str]:
        """As of ``Portable``; codes are turned into the values they stand for, to be looked at."""
        grid = self.source.activation(site)
        found = super().rounded_at(site)
        if found or grid is None:
            return found
        return [
            self.graph.add("DequantizeLinear", one.codes, self.graph.constant(one.scale), one.zero_point)
            for (_, name, _), one in self._codes.items()
            if name == site
        ]

    def linear(self, x: str, path: str, arrange: Arrange | None = None) -> str:
        """As of ``Portable``; in integers if both operands are, and then codes are what is moved."""
        grid, packed = self.source.affine(f"{path}:input"), self.source.weight(path)
        if grid is None or packed is None:
            return super().linear(x, path, arrange)
        left = self.unsigned(x, f"{path}:input", grid)
        if arrange is not None:
            left = replace(left, codes=arrange(left.codes, left.zero_point))
        return self._product(left, codes_of(packed), packed, path, grid)

    def linear_to_round(self, x: str, path: str) -> str:
        """As of ``Portable``; its bias follows a sum of integers."""
        return self.linear(x, path)

    def convolution(self, x: str, path: str, side: int) -> str:
        """As of ``Portable``: nine shifted copies side by side are multiplied as a linear layer."""
        grid, packed = self.source.affine(f"{path}:input"), self.source.weight(path)
        if grid is None or packed is None:
            return super().convolution(x, path, side)
        graph = self.graph
        operand = self.unsigned(x, f"{path}:input", grid)
        pads = graph.shape(0, 1, 1, 0, 0, 1, 1, 0)
        padded = graph.add("Pad", operand.codes, pads, operand.zero_point)  # a border of zeros
        shifted = [
            graph.slice(graph.slice(padded, 1, row, row + side), 2, column, column + side)
            for row in range(3)
            for column in range(3)
        ]
        patches = _Operand(graph.add("Concat", *shifted, axis=3), operand.scale, operand.zero_point)
        codes = packed.codes.numpy().transpose(2, 3, 1, 0).reshape(-1, len(packed.codes))
        return self._product(patches, codes, packed, path, grid)

    def scores(self, query: str, key: str, path: str, scale: float) -> str:
        """As of ``Portable``; in integers if both operands are."""
        query_grid = self.source.affine(f"{path}:query")
        key_grid = self.source.affine(f"{path}:key")
        if query_grid is None or key_grid is None:
            return super().scores(query, key, path, scale)
        left = self.unsigned(query, f"{path}:query", query_grid)
        left = _Operand(left.codes, left.scale * scale, left.zero_point)
        return self._dynamic(left, self.signed(key, f"{path}:key", key_grid, query_grid.bits))

    def weighted(self, scores: str, value: str, path: str) -> str:
        """As of ``Portable``; in integers if the map lies on an affine grid."""
        map_grid = self.source.affine(f"{path}:attention")
        value_grid = self.source.affine(f"{path}:value")
        if map_grid is None or value_grid is None:
            return super().weighted(scores, value, path)
        left = self.unsigned(self.graph.add("Softmax", scores, axis=-1), f"{path}:attention", map_grid)
        return self._dynamic(left, self.signed(value, f"{path}:value", value_grid, map_grid.bits))

    def unsigned(self, x: str, site: str, grid: Affine) -> _Operand:
        """uint8 codes as they are."""
        key = (x, site, "unsigned")
        if key not in self._codes:
            zero_point = grid.onnx_constants(self.graph)[1]
            self._codes[key] = _Operand(grid.onnx_codes(self.graph, x), float(grid.scale), zero_point)
        return self._codes[key]

    def signed(self, x: str, site: str, grid: Affine, other_bits: int) -> _Operand:
        """Codes as int8, moved towards zero, if this machine multiplies them exactly; else uint8."""
        top, origin, scale = 2**grid.bits - 1, int(grid.zero_point), float(grid.scale)
        shift = origin if top <= 127 else 128
        low, high = -shift, top - shift
        if not self.exactness.signed(2**other_bits - 1, max(-low, high)):
            return self.unsigned(x, site, grid)
        key = (x, site, "signed")
        if key not in self._codes:
            graph, zero_point = self.graph, self.graph.constant(origin - shift, np.int8)
            codes = graph.add("QuantizeLinear", x, graph.constant(scale), zero_point)
            if grid.bits < 8:
                codes = graph.add("Clip", codes, graph.constant(low, np.int8), graph.constant(high, np.int8))
            self._codes[key] = _Operand(codes, scale, zero_point)
        return self._codes[key]

    def _dynamic(self, left: _Operand, right: _Operand) -> str:
        """Product of two activations: ``(..., N, d)`` and ``(..., d, M)`` -> ``(..., N, M)`` float32."""
        return self.graph.add(
            "MatMulIntegerToFloat",
            left.codes,
            right.codes,
            self.graph.constant(left.scale),
            self.graph.constant(right.scale),
            left.zero_point,
            right.zero_point,
            domain=_CONTRIB,
        )

    def _product(
        self,
        left: _Operand,
        codes: npt.NDArray[np.uint8],
        packed: PackedWeight,
        path: str,
        grid: Affine,
    ) -> str:
        """``left (..., in)`` times a weight of codes ``(in, out)``, plus the layer's bias."""
        graph = self.graph
        weight, zero_point = self._weight(codes, packed, grid)
        bias = f"{path}.bias"
        return graph.add(
            "MatMulIntegerToFloat",
            left.codes,
            weight,
            graph.constant(left.scale),
            graph.constant(packed.scale.numpy()),
            left.zero_point,
            zero_point,
            graph.constant(self.source.array(bias)) if self.source.has(bias) else "",
            domain=_CONTRIB,
        )

    def _weight(self, codes: npt.NDArray[np.uint8], packed: PackedWeight, grid: Affine) -> tuple[str, str]:
        """Weight and zero points in the fastest type that is exact here: int8 if possible, else uint8."""
        zero_point = packed.zero_point.numpy().astype(np.int16)
        centred = codes.astype(np.int16) - zero_point
        if np.abs(centred).max() <= 127:
            zero_point[:] = 0
        else:
            centred, zero_point = codes.astype(np.int16) - 128, zero_point - 128
        if self.exactness.signed(2**grid.bits - 1, int(np.abs(centred).max())):
            points = self.graph.constant(zero_point, np.int8) if zero_point.any() else ""
            return self.graph.constant(centred, np.int8), points
        return self.graph.constant(codes, np.uint8), self.graph.constant(packed.zero_point.numpy(), np.uint8)
