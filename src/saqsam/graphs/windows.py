"""Tokens in square windows and back again, in a graph: pure moves of values."""

from __future__ import annotations

from saqsam.graphs.graph import Graph


def windows(graph: Graph, x: str, zero: str, grid: int, side: int, width: int) -> str:
    """``(B, g, g, C)`` to ``(B * count, side, side, C)``; ``zero`` fills the last windows.

    Args:
        graph: where nodes go.
        x: name of the tokens.
        zero: name of what fills up, "" for 0.0.
        grid, side: of the tokens and of a window; where they are equal nothing is done.
        width: C.
    """
    count = -(-grid // side)
    if grid == side:
        return x
    missing = count * side - grid
    if missing:
        x = graph.add("Pad", x, graph.shape(0, 0, 0, 0, 0, missing, missing, 0), zero)
    x = graph.reshape(x, -1, count, side, count, side, width)
    return graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4, 5), -1, side, side, width)


def unwindowed(graph: Graph, x: str, grid: int, side: int, heads: int, width: int) -> str:
    """Heads of each window side by side again, ``(B * count, h, side * side, d)`` to ``(B, g, g, C)``."""
    count = -(-grid // side)
    if grid == side:
        return graph.reshape(graph.transpose(x, 0, 2, 1, 3), -1, side, side, width)
    x = graph.reshape(x, -1, count, count, heads, side, side, width // heads)
    x = graph.transpose(x, 0, 1, 4, 2, 5, 3, 6)
    x = graph.reshape(x, -1, count * side, count * side, width)
    if count * side == grid:
        return x
    return graph.slice(graph.slice(x, 1, 0, grid), 2, 0, grid)
