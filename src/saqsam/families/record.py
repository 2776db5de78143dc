"""What everything else must know of a family of models, and may know.

A family is one :class:`Family`: a table of its layers and attentions in the order in which they run, what
stays float and why, and the steps of its forward pass. Attaching, calibrating, learning, folding, packing
and exporting iterate over the table and call the steps, so a new family is a record, an adapter for its
attention, and a writer for its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import SamConfig, SamModel

from saqsam.modules.attention import AttentionQuantizers

Model = SamModel
"""The type of the models: that of SAM 1, whose calls those of every family resemble."""
Config = SamConfig
"""The type of their configurations."""

ENCODER, DECODER = "encoder", "decoder"
PROJECTION, MLP_IN, MLP_OUT, OUTPUT, CONVOLUTION = "projection", "mlp-in", "mlp-out", "output", "convolution"
"""Kinds of layers: queries, keys and values; the first and the second layer of an MLP; what follows an
attention; a convolution, whose channels are not the last side."""


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution whose weight and input are quantized.

    Attributes:
        path: as in ``model.get_submodule(path)``.
        part: ``encoder`` (image encoder with its neck) or ``decoder`` (two-way transformer).
        kind: see above; recipes choose grids by it.
    """

    path: str
    part: str
    kind: str


@dataclass(frozen=True)
class Attention:
    """An attention whose query, key, value and map are quantized.

    Attributes:
        path: of the module that an adapter replaces.
        part: ``encoder`` or ``decoder``.
        projections: paths of the layers that make query, key and value: three, or one of all three.
        output: path of the layer that reads the values that were gathered.
        asks_image: whether prompt tokens query the image in it.
    """

    path: str
    part: str
    projections: tuple[str, ...]
    output: str
    asks_image: bool = False


@dataclass(frozen=True)
class FloatPart:
    """A module (or a parameter, or a step without parameters) that stays in floating point.

    Attributes:
        path: module or parameter path; for a step without parameters, where it happens and which it is.
        reason: why it is not quantized.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Stream:
    """The encoder's residual stream: who reads it, who writes it; see ``folds.rotate_stream``.

    Attributes:
        readers: layer norms and the linear layers that alone follow them, with the norm's path.
        writers: layers whose output is added to the stream, the patch embedding among them.
        positions: table added to it, ``(1, H, W, C)``, or ``None``.
        last: the 1x1 convolution that reads it without a norm.
    """

    readers: tuple[tuple[str, Any, Any], ...]
    writers: tuple[Any, ...]
    positions: Tensor | None
    last: Any


class RowSubset(Protocol):
    """Rows of tokens for which one block can be computed apart."""

    def split(self, height: int, share: float) -> list[slice]:
        """Consecutive slices of ``height`` rows, about ``share`` of them each."""

    def run(self, x: Tensor, rows: slice) -> Tensor:
        """Those rows of what the block gives, ``(B, H, W, C) -> (B, rows, W, C)``."""

    def is_global(self, x: Tensor) -> bool:
        """Whether every token attends to all of ``x (B, H, W, C)``."""


class Encoder(Protocol):
    """The image encoder in its steps: ``neck(block(...block(start(pixels))))``."""

    path: str
    module: nn.Module
    neck_path: str

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""

    @property
    def neck(self) -> nn.Module:
        """What makes the embedding of the last block's tokens."""

    def block_path(self, index: int) -> str:
        """Where a block is in the model."""

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` preprocessed pixels to the tokens ``(B, H, W, C)`` that the first block takes."""

    def encode(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` to embeddings ``(B, C, g, g)``, by the cheapest exact way."""

    def plain(self, pixel_values: Tensor) -> Tensor:
        """As ``encode``, by the encoder's own ``forward``."""

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)`` by the cheapest exact way."""

    def stage_ends(self) -> list[int]:
        """Numbers of the blocks that follow the end of a stage, the last one the number of blocks."""

    def rows_of(self, block: nn.Module) -> RowSubset:
        """Rows of a block that can be computed apart."""

    def stream(self) -> Stream:
        """Readers and writers of the residual stream, of an attached model."""


class Decoder(Protocol):
    """Prompt encoder and mask decoder in their steps.

    Prompts are dimension 0 of all states: tokens ``(P, 1, T, C)``, image tokens ``(P, 1, N, C)``.
    """

    path: str
    iou_index: int

    @property
    def transformer(self) -> nn.Module:
        """All that is quantized of the decoder."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Its layers in order."""

    @property
    def final(self) -> nn.Module:
        """The last attention, in which tokens query the image once more."""

    def output_tokens(self) -> Tensor:
        """``(T, C)``: the tokens that come before those of a prompt."""

    def embed_prompts(
        self,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Sparse ``(B, P, T, C)`` and dense ``(B, C, g, g)`` embeddings of boxes, points, labels, masks, in
        pixels of the model's input."""

    def positions(self) -> Tensor:
        """Position code of the image tokens, ``(1, C, g, g)``."""

    def transform(self, tokens: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """All layers: tokens, and image ``(P, C, g, g)`` -> tokens and image tokens."""

    def layer(
        self, module: nn.Module, queries: Tensor, keys: Tensor, tokens: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One layer; ``tokens`` are those of the first one's input, ``positions (1, 1, N, C)``."""

    def final_attention(self, queries: Tensor, keys: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens after the last attention, before their norm."""

    def final_norm(self, queries: Tensor) -> Tensor:
        """The norm after the last attention, ``(P, T, C)``."""

    def masks(self, tokens: Tensor, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """All masks' logits ``(P, 16 * N, M)``, pixels row by row, of tokens ``(P, T, C)`` after the
        last norm and image tokens ``(P, 1, N, C)`` of a ``size`` grid."""

    def scores(self, tokens: Tensor) -> Tensor:
        """Predicted IoU ``(P, M)`` of tokens after the last norm."""


Adapter = Callable[[nn.Module, AttentionQuantizers, Attention, bool], nn.Module]
"""``(float attention, quantizers, its row, float_rel_pos_query)`` -> the quantized attention."""


@dataclass(frozen=True)
class Family:
    """All of it.

    Attributes:
        name: what messages call it.
        model_types: values of ``model_type`` in a configuration.
        model_class, config_class: of ``transformers``.
        config_parts: names of the configuration's sections.
        rows: layers and attentions in the order in which the model computes them.
        float_parts: what stays float; with the weights of ``rows`` it owns every parameter exactly once.
        float_steps: arithmetic without parameters that stays float.
        adapt: makes a float attention a quantized one.
        encoder, decoder: the steps of the forward pass.
        tied: pairs of parameters that are one tensor; the first one is stored.
    """

    name: str
    model_types: tuple[str, ...]
    model_class: type[Any]
    config_class: type[Any]
    config_parts: tuple[str, ...]
    rows: Callable[[Model], tuple[Layer | Attention, ...]]
    float_parts: Callable[[Model], tuple[FloatPart, ...]]
    float_steps: tuple[FloatPart, ...]
    adapt: Adapter
    encoder: Callable[[Model], Encoder]
    decoder: Callable[[Model], Decoder]
    tied: tuple[tuple[str, str], ...]
