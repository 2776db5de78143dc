"""The prompt encoder and mask decoder as one graph, with the names of SAM's own ONNX export."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from saqsam.families.record import Attention
from saqsam.families.sam_names import SamNames
from saqsam.graphs.graph import Graph
from saqsam.graphs.high_quality import HighQuality
from saqsam.graphs.masks import full_size_masks
from saqsam.graphs.portable import Portable
from saqsam.graphs.source import EARLY, Source

_LAST_NORM_EPSILON = 1e-5  # of the norm after the last attention, which has no setting
UPSCALE_EPSILON = 1e-6
_PADDING = -1
"""Label of a point that is none; SAM appends one to clicks that come without a box."""


def decoder_graph(graph: Graph, source: Source, arithmetic: Portable, *, full_size: bool = True) -> None:
    """Write prompt encoder and mask decoder into ``graph``.

    Inputs, B prompts of N points: ``image_embeddings (1, C, g, g)``, of SAM-HQ also ``interm_embeddings
    (stages, 1, g, g, D)``, of which the first is read; ``point_coords (B, N, 2)`` x, y in
    pixels of the model's input and ``point_labels (B, N)``: 1 on the object, 0 beside it, 2 and 3 the
    corners of a box, -1 padding; ``mask_input (1 or B, 1, 4g, 4g)`` logits and ``has_mask_input (1,)``;
    ``orig_im_size (2,)`` height and width of the image. All float32.
    Outputs, M masks: ``masks (B, M, H, W)`` logits at image size, ``iou_predictions (B, M)``,
    ``low_res_masks (B, M, 4g, 4g)``. Mask 0 is the single answer, 1 to 3 those to an ambiguous prompt.

    Args:
        full_size: ``False`` leaves out ``masks`` and ``orig_im_size``, and computes only the masks that an
            input ``mask_slots (K,)`` int64 names, K of 0 to M - 1.
    """
    writer = DecoderWriter(graph, source, arithmetic)
    grid, low = source.grid, 4 * source.grid
    embeddings = graph.input("image_embeddings", (1, writer.width, grid, grid))
    early = None
    if source.early_block is not None:
        sides = ("stages", 1, grid, grid, int(source.vision["hidden_size"]))
        early = graph.input(EARLY, sides)
    coords = graph.input("point_coords", ("prompts", "points", 2))
    labels = graph.input("point_labels", ("prompts", "points"))
    mask = graph.input("mask_input", ("mask_prompts", 1, low, low))
    has_mask = graph.input("has_mask_input", (1,))
    points = writer.points(coords, labels)
    image = writer.image_tokens(embeddings, writer.dense(mask, has_mask))
    tokens, image = writer.transformer(writer.prompt_tokens(points), image)
    slots = None if full_size else graph.input("mask_slots", ("slots",), TensorProto.INT64)
    features = None if early is None else HighQuality(graph, source).of_image(embeddings, early)
    logits, scores = writer.masks(tokens, image, slots, features)
    outputs = int(source.decoder["num_multimask_outputs"]) + 1
    if full_size:
        size = graph.input("orig_im_size", (2,))
        graph.scope = "masks"
        masks = full_size_masks(graph, logits, size, source.image_size, pads=source.pads)
        graph.output("masks", masks, ("prompts", outputs, "height", "width"))
    graph.output("iou_predictions", scores, ("prompts", outputs))
    graph.output("low_res_masks", logits, ("prompts", outputs if full_size else "slots", low, low))


@dataclass(frozen=True)
class DecoderWriter:
    """The parts of prompt encoder and mask decoder, each written into ``graph`` when it is called."""

    graph: Graph
    source: Source
    arithmetic: Portable

    @property
    def width(self) -> int:
        """Channels of tokens."""
        return int(self.source.decoder["hidden_size"])

    @property
    def names(self) -> SamNames:
        """Where the parameters are in the packed file."""
        return self.source.names

    @property
    def outputs(self) -> int:
        """Number of masks."""
        return int(self.source.decoder["num_multimask_outputs"]) + 1

    def parameter(self, name: str) -> str:
        """A float parameter."""
        return self.source.parameter(self.graph, name)

    def norm(self, x: str, path: str, epsilon: float) -> str:
        """Normalisation over the last side."""
        weight, bias = self.parameter(f"{path}.weight"), self.parameter(f"{path}.bias")
        return self.graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def positions(self, unit: str) -> str:
        """Fourier features ``(..., C)`` of positions ``(..., 2)`` in 0..1 of the input's side."""
        graph = self.graph
        centred = graph.add("Sub", graph.add("Mul", unit, graph.constant(2.0)), graph.constant(1.0))
        product = graph.add("MatMul", centred, self.parameter(self.names.frequencies))
        angle = graph.add("Mul", product, graph.constant(2 * math.pi))
        return graph.add("Concat", graph.add("Sin", angle), graph.add("Cos", angle), axis=-1)

    def points(self, coords: str, labels: str) -> str:
        """``(B, N, C)`` embeddings of points and box corners."""
        graph = self.graph
        graph.scope = self.names.prompts
        shifted = graph.add("Add", coords, graph.constant(0.5))  # the centre of the pixel
        features = self.positions(graph.add("Div", shifted, graph.constant(float(self.source.image_size))))
        label = graph.add("Unsqueeze", labels, graph.shape(2))
        padding = graph.add("Equal", label, graph.constant(float(_PADDING)))
        features = graph.add("Where", padding, self.parameter(self.names.no_point), features)
        for kind in range(int(self.source.part("prompt_encoder_config")["num_point_embeddings"])):
            chosen = graph.add("Equal", label, graph.constant(float(kind)))
            features = graph.add("Where", chosen, graph.add("Add", features, self.kind(kind)), features)
        return features

    def kind(self, number: int) -> str:
        """``(1, C)`` what is added to points with this label."""
        return self.parameter(f"{self.names.points}.{number}.weight")

    def dense(self, mask: str, has_mask: str) -> str:
        """``(B, C, g, g)`` or ``(B, C, 1, 1)``: the embedded mask prompt, or what stands for none."""
        graph, path = self.graph, self.names.mask_embedding
        epsilon = float(self.source.part("prompt_encoder_config")["layer_norm_eps"])
        x = mask
        for number in (1, 2):
            x = self._convolved(x, f"{path}.conv{number}", 2)
            x = self.norm(graph.transpose(x, 0, 2, 3, 1), f"{path}.layer_norm{number}", epsilon)
            x = graph.transpose(graph.add("Gelu", x), 0, 3, 1, 2)
        embedded = self._convolved(x, f"{path}.conv3", 1)
        nothing = graph.reshape(self.parameter(self.names.no_mask), 1, -1, 1, 1)
        given = graph.add("Greater", graph.reshape(has_mask, 1, 1, 1, 1), graph.constant(0.5))
        return graph.add("Where", given, embedded, nothing)

    def _convolved(self, x: str, path: str, side: int) -> str:
        weight, bias = self.parameter(f"{path}.weight"), self.parameter(f"{path}.bias")
        return self.graph.add("Conv", x, weight, bias, strides=[side, side], kernel_shape=[side, side])

    def image_tokens(self, embeddings: str, dense: str) -> str:
        """``(1 or B, g*g, C)``: what all prompts share stays one row, so it is projected once."""
        x = self.graph.add("Add", embeddings, dense)
        return self.graph.transpose(self.graph.reshape(x, -1, self.width, self.source.grid**2), 0, 2, 1)

    def prompt_tokens(self, points: str) -> str:
        """``(B, tokens, C)``: the IoU token, the mask tokens, SAM-HQ's own, then the prompt's points."""
        graph = self.graph
        paths = list(self.names.output_tokens)
        if self.source.early_block is not None:
            paths.append(self.names.hq_token)
        tokens = [self.parameter(f"{path}.weight") for path in paths]
        own = graph.add("Concat", *tokens, axis=0)
        own = graph.add("Unsqueeze", own, graph.shape(0))
        count = graph.slice(graph.add("Shape", points), 0, 0, 1)
        target = graph.add("Concat", count, graph.shape(1, 1), axis=0)
        return graph.add("Concat", graph.add("Expand", own, target), points, axis=1)

    def transformer(self, tokens: str, image: str) -> tuple[str, str]:
        """Two-way attention; ``tokens (B, T, C)`` and ``image (1 or B, g*g, C)`` to the same."""
        add, origin = self.graph.add, tokens
        self.graph.scope = self.names.transformer
        axis = (np.arange(self.source.grid, dtype=np.float32) + np.float32(0.5)) / np.float32(
            self.source.grid
        )
        places = np.stack(np.meshgrid(axis, axis, indexing="xy"), axis=-1).reshape(1, -1, 2)
        where = self.positions(self.graph.constant(places))
        epsilon = self.source.decoder_epsilon
        for index, layer in enumerate(self.names.layers):
            if index == 0:
                tokens = self.attention(tokens, tokens, tokens, layer.self_attention)
            else:
                query = add("Add", tokens, origin)
                tokens = add("Add", tokens, self.attention(query, query, tokens, layer.self_attention))
            tokens = self.norm(tokens, layer.norms[0], epsilon)
            query, key = add("Add", tokens, origin), add("Add", image, where)
            found = self.attention(query, key, image, layer.tokens_to_image)
            tokens = self.norm(add("Add", tokens, found), layer.norms[1], epsilon)
            self.graph.scope = layer.mlp
            hidden = add("Relu", self.arithmetic.linear(tokens, layer.mlp_in))
            tokens = add("Add", tokens, self.arithmetic.linear(hidden, layer.mlp_out))
            tokens = self.norm(tokens, layer.norms[2], epsilon)
            query = add("Add", tokens, origin)
            found = self.attention(key, query, tokens, layer.image_to_tokens)
            image = self.norm(add("Add", image, found), layer.norms[3], epsilon)
        query, key = add("Add", tokens, origin), add("Add", image, where)
        tokens = add("Add", tokens, self.attention(query, key, image, self.names.final_attention))
        return self.norm(tokens, self.names.final_norm, _LAST_NORM_EPSILON), image

    def attention(self, query: str, key: str, value: str, names: Attention) -> str:
        """``query (B, N, C)``, ``key, value (B, M, C)`` -> ``(B, N, C)``; any B may be 1."""
        graph, heads = self.graph, int(self.source.decoder["num_attention_heads"])
        graph.scope = names.path
        full = any(names == layer.self_attention for layer in self.names.layers)
        rate = 1 if full else int(self.source.decoder["attention_downsample_rate"])
        inner = self.width // rate
        projected = [
            graph.add("Reshape", self.arithmetic.linear(x, path), graph.shape(0, 0, heads, -1))
            for x, path in zip((query, key, value), names.projections, strict=True)
        ]
        orders = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
        q, k, v = (graph.transpose(x, *order) for x, order in zip(projected, orders, strict=True))
        scores = self.arithmetic.scores(q, k, names.path, (inner // heads) ** -0.5)
        output = graph.transpose(self.arithmetic.weighted(scores, v, names.path), 0, 2, 1, 3)
        return self.arithmetic.linear(graph.reshape(output, 0, 0, inner), names.output)

    def masks(
        self, tokens: str, image: str, slots: str | None, features: str | None = None
    ) -> tuple[str, str]:
        """Logits ``(B, M, 4g, 4g)``, or of the masks in ``slots``, and predicted IoU ``(B, M)``.

        A 2x2 transposed convolution of stride 2 gives every token four pixels that share nothing with
        their neighbours: it is a linear layer. Pixels stay in the order of their tokens until the end,
        where only M numbers of each have to be moved. ``features`` are SAM-HQ's, of the image.
        """
        graph = self.graph
        x = self.upscaled(image)
        graph.scope = f"{self.names.decoder}.heads"
        outputs, iou = self.outputs, self.source.iou_index
        first = iou + 1
        each = graph.split(graph.slice(tokens, 1, first, first + outputs), 1, outputs)
        vectors = [
            self.feed_forward(one, f"{self.names.mask_heads}.{index}", 3) for index, one in enumerate(each)
        ]
        vector = graph.add("Concat", *vectors, axis=1) if outputs > 1 else vectors[0]
        if slots is not None:
            vector = graph.add("Gather", vector, slots, axis=1)
        logits = self._in_rows(graph.add("MatMul", vector, x))
        if features is not None:
            logits = self._high_quality(graph.slice(tokens, 1, 1 + outputs, 2 + outputs), x, features, logits)
        depth = int(self.source.decoder["iou_head_depth"])
        scores = self.feed_forward(graph.slice(tokens, 1, iou, first), self.names.iou_head, depth)
        return logits, graph.reshape(scores, -1, outputs)

    def upscaled(self, image: str) -> str:
        """Image tokens ``(B, N, C)`` to ``(B, C / 8, 16 * N)``, pixels in the order of their tokens."""
        graph = self.graph
        first_step, second_step = self.names.upscaling
        graph.scope = f"{self.names.decoder}.upscale"
        x = graph.reshape(self.fourfold(image, first_step), 0, -1, self.width // 4)
        x = graph.add("Gelu", self.norm(x, self.names.upscaling_norm, UPSCALE_EPSILON))
        x = graph.add("Gelu", self.fourfold(x, second_step))
        return graph.transpose(graph.reshape(x, 0, -1, self.width // 8), 0, 2, 1)

    def _in_rows(self, x: str) -> str:
        """``(B, n, pixels in the order of their tokens)`` to ``(B, n, 4g, 4g)``."""
        graph, grid = self.graph, self.source.grid
        x = graph.transpose(graph.reshape(x, 0, 0, grid, grid, 2, 2, 2, 2), 0, 1, 2, 4, 6, 3, 5, 7)
        return graph.reshape(x, 0, 0, 4 * grid, 4 * grid)

    def _high_quality(self, token: str, x: str, features: str, logits: str) -> str:
        """Logits with SAM-HQ's mask added to each, or that mask in place of each."""
        graph, low = self.graph, 4 * self.source.grid
        fine = HighQuality(graph, self.source).of_masks(self._in_rows(x), features)
        asked = self.feed_forward(token, self.names.hq_head, 3)
        mask = graph.add("MatMul", asked, graph.reshape(fine, 0, 0, -1))
        mask = graph.reshape(mask, 0, 0, low, low)
        if self.source.decoder.get("hq_token_only"):
            return graph.add("Expand", mask, graph.add("Shape", logits))
        return graph.add("Add", logits, mask)

    def fourfold(self, x: str, path: str) -> str:
        """Transposed convolution, 2x2 with stride 2: ``(B, n, in) -> (B, n, 4 * out)``, pixels row by row."""
        weight = self.source.array(f"{path}.weight")  # (in, out, 2, 2)
        matrix = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        bias = np.tile(self.source.array(f"{path}.bias"), 4)
        graph = self.graph
        values = [graph.constant(array, array.dtype) for array in (matrix, bias)]
        if weight.dtype == np.float16:
            values = [graph.add("Cast", value, to=1) for value in values]
        return graph.add("Add", graph.add("MatMul", x, values[0]), values[1])

    def feed_forward(self, x: str, path: str, depth: int) -> str:
        """A stack of float linear layers with ReLU between them."""
        names = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
        for name in names:
            x = self.arithmetic.linear(x, f"{path}.{name}")
            x = self.graph.add("Relu", x) if name != "proj_out" else x
        return x
