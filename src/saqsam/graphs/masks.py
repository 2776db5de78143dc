"""Low-resolution logits to masks at image size, as :func:`saqsam.segment.predictor.upscale_masks` does it."""

from __future__ import annotations

import numpy as np

from saqsam.graphs.graph import Graph

_DOUBLE, _INT64 = 11, 7


def full_size_masks(graph: Graph, logits: str, size: str, side: int, *, pads: bool = True) -> str:
    """``logits (B, M, h, w)`` to ``(B, M, H, W)`` logits; cut them at 0 for masks.

    Args:
        graph: where nodes go.
        logits: name of the low-resolution logits.
        size: name of ``(2,)`` float32, height and width of the displayed image.
        side: of the model's square input in pixels.
        pads: whether the picture fills only a part of it.
    """
    if not pads:
        return _bilinear(graph, logits, graph.add("Cast", size, to=_INT64))
    resized = _resized(graph, size, side)
    large = _bilinear(graph, logits, graph.shape(side, side))
    picture = graph.add("Slice", large, graph.shape(0, 0), resized, graph.shape(2, 3))
    return _bilinear(graph, picture, graph.add("Cast", size, to=_INT64))


def _resized(graph: Graph, size: str, side: int) -> str:
    """(2,) int64 height and width of the picture inside the input; in float64, as the predictor counts."""
    exact = graph.add("Cast", size, to=_DOUBLE)
    longest = graph.add("ReduceMax", exact, keepdims=1)
    scale = graph.add("Div", graph.constant([side], np.float64), longest)
    near = graph.add("Add", graph.add("Mul", exact, scale), graph.constant(0.5, np.float64))
    whole = graph.add("Cast", graph.add("Floor", near), to=_INT64)
    return graph.add("Max", whole, graph.shape(1))


def _bilinear(graph: Graph, x: str, size: str) -> str:
    return graph.add(
        "Resize", x, "", "", size, axes=[2, 3], mode="linear", coordinate_transformation_mode="half_pixel"
    )
