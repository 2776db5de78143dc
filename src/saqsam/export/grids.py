"""Activation grids as small subgraphs that give the codes of :mod:`saqsam.grids`.

``QuantizeLinear`` saturates at 8 bits only, so narrower codes are clipped afterwards; the zero point is
added after rounding half to even, in ONNX as here, so codes are equal bit for bit.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from saqsam.export.graph import Graph
from saqsam.grids.log2 import log2_levels
from saqsam.pack.file import PackedActivation

INT32 = 6


def affine_codes(graph: Graph, x: str, grid: PackedActivation) -> str:
    """uint8 codes ``0 .. 2**bits - 1`` of a float value, same shape."""
    scale, zero_point = affine_constants(graph, grid)
    codes = graph.add("QuantizeLinear", x, scale, zero_point)
    if grid.bits == 8:
        return codes
    low, high = (graph.constant(code, np.uint8) for code in (0, 2**grid.bits - 1))
    return graph.add("Clip", codes, low, high)


def affine_constants(graph: Graph, grid: PackedActivation) -> tuple[str, str]:
    """The grid's scale, float32, and zero point, uint8, as scalars of the graph."""
    return graph.constant(grid.scale), graph.constant(grid.zero_point, np.uint8)


def log2_codes(graph: Graph, x: str, grid: PackedActivation) -> str:
    """int32 codes of attention probabilities; the largest code stands for zero.

    ``log2(x / scale)`` becomes ``log(x / scale) * (1 / log 2)``: where a probability lies within a
    rounding error of the middle between two levels, its code may differ from PyTorch's by one.
    """
    return graph.add("Cast", _log2_steps(graph, x, grid), to=INT32)


def _log2_steps(graph: Graph, x: str, grid: PackedActivation) -> str:
    """The codes of ``log2_codes`` as float32."""
    exponent = graph.add("Log", graph.add("Div", x, graph.constant(grid.scale)))
    steps = graph.add("Round", graph.add("Mul", exponent, graph.constant(-grid.tau / math.log(2))))
    return graph.add("Clip", steps, graph.constant(0), graph.constant(2**grid.bits - 1))


def log2_by_exponential(graph: Graph, x: str, grid: PackedActivation) -> str:
    """``on_grid`` for a logarithmic grid, to the last rounding, without looking each value up in a table.

    ONNX Runtime's ``Gather`` takes the values one by one; an exponential and a threshold are vectorised.
    """
    half_way = grid.scale * 2.0 ** (-(2**grid.bits - 1.5) / grid.tau)  # the largest code stands for zero
    exponent = graph.add("Mul", _log2_steps(graph, x, grid), graph.constant(-math.log(2) / grid.tau))
    value = graph.add("Mul", graph.add("Exp", exponent), graph.constant(grid.scale))
    return graph.add("ThresholdedRelu", value, alpha=half_way)


def on_grid(graph: Graph, x: str, grid: PackedActivation) -> str:
    """The values of the grid nearest to ``x``, float32, same shape."""
    if grid.grid == "log2":
        levels = log2_levels(torch.tensor(grid.scale), grid.tau, grid.bits).numpy()
        return graph.add("Gather", graph.constant(levels), log2_codes(graph, x, grid))
    return graph.add("DequantizeLinear", affine_codes(graph, x, grid), *affine_constants(graph, grid))
