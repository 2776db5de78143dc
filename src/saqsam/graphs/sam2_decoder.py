"""SAM 2's prompt encoder and mask decoder as one graph, with the names that exporters of SAM 2 use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from saqsam.graphs.decoder import UPSCALE_EPSILON, DecoderWriter
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Portable
from saqsam.graphs.sam2_names import FINE, MAIN, MIDDLE, OBJECTS, SINGLE
from saqsam.graphs.source import Source


def sam2_decoder_graph(graph: Graph, source: Source, arithmetic: Portable, *, full_size: bool = True) -> None:
    """Write prompt encoder and mask decoder into ``graph``.

    Inputs, B prompts of N points: ``image_embed (1, C, g, g)``, ``high_res_feats_0 (1, C/8, 4g, 4g)``,
    ``high_res_feats_1 (1, C/4, 2g, 2g)``; ``point_coords (B, N, 2)`` x, y in pixels of the model's input and
    ``point_labels (B, N)``: 1 on the object, 0 beside it, 2 and 3 the corners of a box, -1 padding (one that
    ends the prompt is added here); ``mask_input (1 or B, 1, 4g, 4g)`` logits and ``has_mask_input (1,)``. All
    float32.
    Outputs, M masks: ``masks (B, M, 4g, 4g)`` logits, ``iou_predictions (B, M)`` from 0 to 1,
    ``object_score_logits (B, 1)``, ``single_mask (B,)`` int64. Mask 0 is the single answer, 1 to 3 those to
    an ambiguous prompt; ``single_mask`` says which of all the file's own setting takes for the single answer.

    Args:
        full_size: ``False`` computes only the masks that an input ``mask_slots (K,)`` int64 names, K of 0 to
            M - 1; ``single_mask`` then means something only if all of them are asked for.
    """
    grid, low, width = source.grid, 4 * source.grid, int(source.decoder["hidden_size"])
    embeddings = graph.input(MAIN, (1, width, grid, grid))
    fine = graph.input(FINE, (1, width // 8, low, low))
    middle = graph.input(MIDDLE, (1, width // 4, 2 * grid, 2 * grid))
    coords = graph.input("point_coords", ("prompts", "points", 2))
    labels = graph.input("point_labels", ("prompts", "points"))
    mask = graph.input("mask_input", ("mask_prompts", 1, low, low))
    has_mask = graph.input("has_mask_input", (1,))
    slots = None if full_size else graph.input("mask_slots", ("slots",), TensorProto.INT64)
    writer = Sam2DecoderWriter(graph, source, arithmetic, fine, middle)
    points = writer.points(*writer.ended(coords, labels))
    image = writer.image_tokens(embeddings, writer.dense(mask, has_mask))
    tokens, image = writer.transformer(writer.prompt_tokens(points), image)
    logits, scores = writer.masks(tokens, image, slots)
    scores = graph.add("Sigmoid", scores)
    graph.output("masks", logits, ("prompts", writer.outputs if full_size else "slots", low, low))
    graph.output("iou_predictions", scores, ("prompts", writer.outputs))
    graph.output(OBJECTS, writer.objects(tokens), ("prompts", 1))
    graph.output(SINGLE, writer.single(logits, scores), ("prompts",), TensorProto.INT64)


@dataclass(frozen=True)
class Sam2DecoderWriter(DecoderWriter):
    """What differs from SAM's: one more token and head, finer levels in upscaling, one table of points."""

    fine: str = ""
    middle: str = ""
    """Names of the finer levels."""

    def ended(self, coords: str, labels: str) -> tuple[str, str]:
        """Points and labels with the one behind them that says that no more follow."""
        graph = self.graph
        graph.scope = self.names.prompts
        coords = graph.add("Pad", coords, graph.shape(0, 0, 0, 0, 1, 0), "")
        return coords, graph.add("Pad", labels, graph.shape(0, 0, 0, 1), graph.constant(-1.0))

    def kind(self, number: int) -> str:
        """``(1, C)`` what is added to points with this label."""
        return self.graph.slice(self.parameter(f"{self.names.points}.weight"), 0, number, number + 1)

    def upscaled(self, image: str) -> str:
        """As of SAM's, with the finer levels added to what the two steps make."""
        graph, grid = self.graph, self.source.grid
        first_step, second_step = self.names.upscaling
        graph.scope = f"{self.names.decoder}.upscale"
        half, least = self.width // 4, self.width // 8
        middle = graph.reshape(self.middle, 1, half, grid, 2, grid, 2)
        middle = graph.reshape(graph.transpose(middle, 0, 2, 4, 3, 5, 1), 1, -1, half)
        fine = graph.reshape(self.fine, 1, least, grid, 2, 2, grid, 2, 2)
        fine = graph.reshape(graph.transpose(fine, 0, 2, 5, 3, 6, 4, 7, 1), 1, -1, least)
        x = graph.add("Add", graph.reshape(self.fourfold(image, first_step), 0, -1, half), middle)
        x = graph.add("Gelu", self.norm(x, self.names.upscaling_norm, UPSCALE_EPSILON))
        x = graph.add("Add", graph.reshape(self.fourfold(x, second_step), 0, -1, least), fine)
        return graph.transpose(graph.add("Gelu", x), 0, 2, 1)

    def objects(self, tokens: str) -> str:
        """Logits ``(B, 1)`` of there being an object."""
        first = self.graph.slice(tokens, 1, 0, 1)
        return self.graph.reshape(self.feed_forward(first, self.names.object_head, 3), -1, 1)

    def single(self, logits: str, scores: str) -> str:
        """``(B,)``: 0, or where mask 0 is not stable the best other, if the model is set to switch."""
        graph, settings = self.graph, self.source.decoder
        graph.scope = f"{self.names.decoder}.single_mask"
        best = graph.add("ArgMax", graph.slice(scores, 1, 1, self.outputs), axis=1, keepdims=0)
        best = graph.add("Add", best, graph.constant(1, np.int64))
        nothing = graph.add("Mul", best, graph.constant(0, np.int64))
        if not settings["dynamic_multimask_via_stability"]:
            return nothing
        first = graph.slice(logits, 1, 0, 1)
        delta = float(settings["dynamic_multimask_stability_delta"])
        inner, outer = (self._area(first, threshold) for threshold in (delta, -delta))
        stability = graph.add("Div", inner, outer)  # nothing over nothing is NaN, and that is not less
        least = graph.constant(float(settings["dynamic_multimask_stability_thresh"]))
        return graph.add("Where", graph.add("Less", stability, least), best, nothing)

    def _area(self, mask: str, threshold: float) -> str:
        """``(B,)`` number of pixels of ``mask (B, 1, h, w)`` above a threshold."""
        graph = self.graph
        above = graph.add("Cast", graph.add("Greater", mask, graph.constant(threshold)), to=1)
        return graph.add("ReduceSum", above, graph.shape(1, 2, 3), keepdims=0)
