"""How quantized products are written down; the rest of the graph does not know.

``Portable`` uses standard operators only: integers and ``DequantizeLinear``, then float products of values
that lie on their grids. This is the simulation itself, operator by operator, for any ONNX runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from saqsam.graphs.graph import Graph
from saqsam.graphs.source import Source, codes_of
from saqsam.grids.grid import Grid
from saqsam.pack.file import PackedWeight

Arrange = Callable[[str, str], str]
"""Codes and the name of the code of zero to the same codes, moved or padded; values, and "" for 0.0."""


class Portable:
    """Quantized layers and attention products out of standard operators.

    Args:
        graph: where nodes go.
        source: integers, scales and zero points.

    Attributes:
        largest_piece: elements of one head's attention map that are computed at once, in groups of rows,
            which is exact; ``None``: all of them.
    """

    largest_piece: ClassVar[int | None] = None

    def __init__(self, graph: Graph, source: Source) -> None:
        self.graph, self.source = graph, source
        self._rounded: dict[tuple[str, str], str] = {}
        self._moved: dict[str, str] = {}

    def quantize(self, x: str, site: str) -> str:
        """``x`` on the grid of ``site``, float32; itself where the site is float."""
        grid = self.source.activation(site)
        if grid is None:
            return x
        if (x, site) not in self._rounded:
            self._rounded[x, site] = self.on_grid(x, grid)
        return self._rounded[x, site]

    def on_grid(self, x: str, grid: Grid) -> str:
        """``x`` on a grid, float32."""
        return grid.onnx(self.graph, x)

    def rounded_at(self, site: str) -> list[str]:
        """Names of the values on the grid of ``site``, in the order in which they were written down."""
        found = [value for (_, name), value in self._rounded.items() if name == site]
        grid = self.source.affine(site)
        if grid is not None and site in self._moved:
            values = self._moved[site], *grid.onnx_constants(self.graph)
            found.append(self.graph.add("DequantizeLinear", *values))
        return found

    def linear(self, x: str, path: str, arrange: Arrange | None = None) -> str:
        """``(..., in) -> (..., out)`` of a linear layer, or of a 1x1 convolution, channels last.

        ``arrange`` moves tokens between rounding and product: fewer are rounded than after padding.
        """
        site = f"{path}:input"
        rounded = self.quantize(x, site) if arrange is None else self._arranged(x, site, arrange)
        return self.biased(self.graph.add("MatMul", rounded, self.matrix(path)), path)

    def linear_to_round(self, x: str, path: str) -> str:
        """As ``linear``, of a layer whose output is rounded with no other operator between.

        A bias that is added right before ``QuantizeLinear`` ONNX Runtime rounds to the grid of the products,
        which changes codes. One that is subtracted it leaves alone.
        """
        product = self.graph.add("MatMul", self.quantize(x, f"{path}:input"), self.matrix(path))
        return self._biased_to_round(product, path)

    def _biased_to_round(self, product: str, path: str) -> str:
        if not self.source.has(f"{path}.bias"):
            return product
        bias = self.source.parameter(self.graph, f"{path}.bias")
        return self.graph.add("Sub", product, self.graph.add("Neg", bias))

    def _arranged(self, x: str, site: str, arrange: Arrange) -> str:
        """``x`` on its grid and moved, float32.

        Codes are what moves. ONNX Runtime takes a product with an operand that does not come straight from
        ``DequantizeLinear`` for one of float values, and rounds them in its own way.
        """
        grid = self.source.affine(site)
        if grid is None:
            return arrange(self.quantize(x, site), "")
        scale, zero_point = grid.onnx_constants(self.graph)
        self._moved[site] = grid.onnx_codes(self.graph, x)
        return self.graph.add("DequantizeLinear", arrange(self._moved[site], zero_point), scale, zero_point)

    def biased(self, product: str, path: str) -> str:
        """``product (..., out)`` plus the layer's bias, if it has one."""
        if not self.source.has(f"{path}.bias"):
            return product
        return self.graph.add("Add", product, self.source.parameter(self.graph, f"{path}.bias"))

    def convolution(self, x: str, path: str, side: int) -> str:
        """3x3 convolution with a border of one zero: ``(B, side, side, in) -> (B, side, side, out)``."""
        del side  # standard operators find it out
        rounded = self.graph.transpose(self.quantize(x, f"{path}:input"), 0, 3, 1, 2)
        packed = self.source.weight(path)
        if packed is None:
            weight = self.source.parameter(self.graph, f"{path}.weight")
        else:
            weight = self._dequantized(path, packed.codes.numpy(), 0)
        product = self.graph.add("Conv", rounded, weight, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        return self._biased_to_round(self.graph.transpose(product, 0, 2, 3, 1), path)

    def matrix(self, path: str) -> str:
        """A layer's weight as float32 ``(in, out)``, its integers in the file."""
        packed = self.source.weight(path)
        if packed is not None and self.source.activation(f"{path}:input") is None:
            return self._spelled_out(packed)
        if packed is not None:
            return self._dequantized(path, codes_of(packed), 1)
        weight = self.source.array(f"{path}.weight")
        kept = self.graph.constant(weight.reshape(len(weight), -1).T, weight.dtype)
        return kept if weight.dtype == np.float32 else self.graph.add("Cast", kept, to=1)

    def _dequantized(
        self, path: str, codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], axis: int
    ) -> str:
        packed = self.source.packed.weights[path]
        return self.graph.add(
            "DequantizeLinear",
            self.graph.integers(codes, packed.bits),
            self.graph.constant(packed.scale.numpy()),
            self.graph.integers(packed.zero_point.numpy(), packed.bits),
            axis=axis,
        )

    def _spelled_out(self, packed: PackedWeight) -> str:
        """As ``_dequantized``, for a layer whose input is float, which ONNX Runtime would otherwise round to
        8 bits: it takes ``DequantizeLinear`` before such a product for leave to do so."""
        codes = self.graph.add("Cast", self.graph.integers(codes_of(packed), packed.bits), to=1)
        zero_point = self.graph.constant(packed.zero_point.numpy().astype(np.float32))
        scale = self.graph.constant(packed.scale.numpy())
        return self.graph.add("Mul", self.graph.add("Sub", codes, zero_point), scale)

    def scores(self, query: str, key: str, path: str, scale: float) -> str:
        """``scale * query @ key^T``: ``(..., N, d)`` and ``(..., d, M)`` -> ``(..., N, M)``."""
        rounded = self.graph.add("Mul", self.quantize(query, f"{path}:query"), self.graph.constant(scale))
        return self.graph.add("MatMul", rounded, self.quantize(key, f"{path}:key"))

    def weighted(self, scores: str, value: str, path: str) -> str:
        """``softmax(scores) @ value``: ``(..., N, M)`` and ``(..., M, d)`` -> ``(..., N, d)``."""
        probabilities = self.quantize(self.graph.add("Softmax", scores, axis=-1), f"{path}:attention")
        return self.graph.add("MatMul", probabilities, self.quantize(value, f"{path}:value"))
