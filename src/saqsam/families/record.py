"""What everything else must know of a family of models, and may know.

A family is one :class:`Family`: a table of its layers and attentions in the order in which they run, what
stays float and why, and the steps of its forward pass. Attaching, calibrating, learning, folding, packing
and exporting iterate over the table and call the steps, so a new family is a record, an adapter for its
attention, and a writer for its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from torch import Tensor, nn

from saqsam.families.embedding import Embedding
from saqsam.families.in_files import Check as Check
from saqsam.families.in_files import ConfigRules as ConfigRules
from saqsam.families.in_files import Naming as Naming
from saqsam.families.in_files import Parts as Parts
from saqsam.families.in_files import Shapes as Shapes
from saqsam.families.in_files import Sizes as Sizes
from saqsam.families.layout import Layout
from saqsam.families.licence import Licence
from saqsam.families.loading_option import LoadingOption
from saqsam.modules.attention import AttentionQuantizers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Model: TypeAlias = "PreTrainedModel"
"""The type of the models of all families; which one it is says its configuration, see ``registry``. A name
for annotations: the import of what it stands for takes longer than that of all else."""
Config: TypeAlias = "PretrainedConfig"
"""The type of their configurations."""
State = tuple[Tensor, ...]
"""What flows through a model: of the encoder the tokens ``(B, H, W, D)``, then whatever earlier blocks left
for the neck, at last the tensors of an ``Embedding``."""

ENCODER, DECODER = "encoder", "decoder"
PROJECTION, MLP_IN, MLP_OUT, OUTPUT, CONVOLUTION = "projection", "mlp-in", "mlp-out", "output", "convolution"
"""Kinds of layers: queries, keys and values; the first and the second layer of an MLP; what follows an
attention; a convolution, whose channels are not the last side."""

KEY_CENTRING, SIGN_FLIP, EQUALISATION = "key centring", "sign flip", "query/key equalisation"
QUERY_KEY_ROTATION, VALUE_FOLDS = "query/key rotation", "value folds"
ALL_FOLDS = frozenset((KEY_CENTRING, SIGN_FLIP, EQUALISATION, QUERY_KEY_ROTATION, VALUE_FOLDS))
"""Changes of an attention's weights that leave its output as it was, where they do; see ``saqsam.folds``."""


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
        exact: the folds that leave its output as it was.
    """

    path: str
    part: str
    projections: tuple[str, ...]
    output: str
    asks_image: bool = False
    exact: frozenset[str] = ALL_FOLDS


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
    """The image encoder in its steps: ``finish(carry(block(...carry(block(start(pixels))))))``."""

    path: str
    module: nn.Module
    neck_path: str
    turns: bool
    """Whether its residual stream can be turned: it is as wide everywhere, and nothing pools it."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""

    @property
    def neck(self) -> nn.Module:
        """What makes the embedding of the last block's tokens."""

    @property
    def neck_parts(self) -> tuple[nn.Module, ...]:
        """The neck and whatever else runs once for an image after the last block."""

    def block_path(self, index: int) -> str:
        """Where a block is in the model."""

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` preprocessed pixels to the tokens ``(B, H, W, C)`` that the first block takes."""

    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The state after block ``index`` made ``x`` of ``state[0]``: ``x``, and what the neck or the decoder
        will want of this block and of those before it."""

    def finish(self, state: State) -> Embedding:
        """The embedding, from the state after the last block."""

    def reaches_neck(self, after: int) -> bool:
        """Whether tokens can skip from block ``after - 1`` straight into the neck."""

    def skip(self, state: State, after: int) -> Tensor:
        """What the neck makes of the state after block ``after - 1``, later blocks skipped: ``(B, C, g, g)``;
        asked only where ``reaches_neck``."""

    def encode(self, pixel_values: Tensor) -> Embedding:
        """``(B, 3, S, S)`` to an embedding, by the cheapest exact way."""

    def plain(self, pixel_values: Tensor) -> Embedding:
        """As ``encode``, by the encoder's own ``forward``."""

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)`` by the cheapest exact way."""

    def stage_ends(self) -> list[int]:
        """Numbers of the blocks that follow the end of a stage, the last one the number of blocks."""

    def rows_of(self, block: nn.Module) -> RowSubset | None:
        """Rows of a block that can be computed apart; ``None`` where they cannot."""

    def stream(self) -> Stream:
        """Readers and writers of the residual stream, of an attached model; asked only where it ``turns``."""


@dataclass(frozen=True)
class Answers:
    """What a mask decoder says of P prompts for each of B images.

    Attributes:
        masks: logits ``(B, P, M, h, w)``.
        scores: predicted IoU ``(B, P, M)``.
        objects: logits ``(B, P)`` of there being an object, of families that predict it.
    """

    masks: Tensor
    scores: Tensor
    objects: Tensor | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Answers:
        """From what ``tensors`` gave."""
        return cls(*tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are."""
        return (self.masks, self.scores) if self.objects is None else (self.masks, self.scores, self.objects)


class Prepared(Protocol):
    """A mask decoder prepared for many prompts of one image, the image's share of the work done once."""

    def attend(self, sparse: Tensor | None, dense: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens ``(P, T, C)`` and image tokens ``(P, N, C)`` of embedded prompts, see ``embed_prompts``."""

    def scores(self, tokens: Tensor, *, multimask_output: bool) -> Tensor:
        """Predicted IoU ``(P, M)`` from what ``attend`` returned, or from some of its rows."""

    def masks(self, tokens: Tensor, image: Tensor, *, multimask_output: bool) -> Tensor:
        """Mask logits ``(P, M, h, w)``, likewise."""

    def answer(self, tokens: Tensor, image: Tensor, *, multimask_output: bool, may_switch: bool) -> Answers:
        """Masks, scores and whatever else the family says ``(P, ...)``, likewise; options as of
        :meth:`Decoder.answer`."""


class Decoder(Protocol):
    """Prompt encoder and mask decoder in their steps.

    Prompts are dimension 0 of all states: tokens ``(P, 1, T, C)``, image tokens ``(P, 1, N, C)``.
    """

    path: str
    iou_index: int

    @property
    def switches(self) -> bool:
        """Whether by the model's own settings a single mask may be switched, see ``answer``."""

    @property
    def transformer(self) -> nn.Module:
        """All that is quantized of the decoder."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Its layers in order."""

    @property
    def final(self) -> nn.Module:
        """The last attention, in which tokens query the image once more."""

    def answer(
        self,
        embedding: Embedding,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = False,
        may_switch: bool = False,
    ) -> Answers:
        """Masks of P prompts for each of B images by the model's own modules; prompts as of
        ``embed_prompts``. With ``multimask_output`` three masks of each, else the single one, which
        ``may_switch`` to the best of the three where the model's own settings say so."""

    def prepared(self, embedding: Embedding, *, with_masks: bool = False) -> Prepared | None:
        """The decoder prepared for prompts of one image, which bring masks or do not; ``None`` where only
        ``answer`` gives what the model gives, as while hooks or observers wait for its modules."""

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

    def masks(self, tokens: Tensor, keys: Tensor, embedding: Embedding) -> Tensor:
        """All masks' logits ``(P, 16 * N, M)``, of tokens ``(P, T, C)`` after the last norm, image tokens
        ``(P, 1, N, C)``, and an embedding with the grid's size and the features, one for each prompt."""

    def scores(self, tokens: Tensor) -> Tensor:
        """Predicted IoU ``(P, M)`` of tokens after the last norm."""


Adapter = Callable[[nn.Module, AttentionQuantizers, Attention, bool], nn.Module]
"""``(float attention, quantizers, its row, float_rel_pos_query)`` -> the quantized attention."""


@dataclass(frozen=True)
class Modules:
    """What of a family computes with PyTorch modules.

    Attributes:
        model_class: of ``transformers``.
        adapt: makes a float attention a quantized one.
        encoder, decoder: the steps of the forward pass.
        fill_tables: gives tables that no file holds their values, of a model laid out without memory.
    """

    model_class: type[Any]
    adapt: Adapter
    encoder: Callable[[Any], Encoder]
    decoder: Callable[[Any], Decoder]
    fill_tables: Callable[[Any], None] = lambda model: None


@dataclass(frozen=True)
class Family:
    """All of it; what needs the modules of ``transformers``, whose import takes seconds, behind ``modules``.

    Attributes:
        name: what messages call it.
        model_types: values of ``model_type`` in a configuration; the first one is its own.
        modules: imports and returns what computes.
        config_class: of ``transformers``.
        config: what its configuration may say.
        sizes: of a configuration.
        rows: layers and attentions in the order in which the model computes them.
        float_parts: what stays float; with the weights of ``rows`` it owns every parameter exactly once.
        float_steps: arithmetic without parameters that stays float.
        tied: pairs of parameters that are one tensor; the first one is stored.
        shapes: names and shapes of all tensors by the configuration, where they are known without laying a
            model out; ``rows`` then also takes anything that has a ``config``.
        calls: the steps ``encode``, ``answer`` and ``prepared`` of what is no module and only has the calls
            of one, where that needs no modules.
        licence: what its weights are published under, where that asks something of whoever passes them on.
        image_processor: that for images alone, where its name does not follow from that of ``processor``.
        layout: names in official files.
        naming: how files of the family are told from others', and its published sizes.
        options: of loading, by key.
        processor: the class of ``transformers`` that prepares its images and prompts.
    """

    name: str
    model_types: tuple[str, ...]
    modules: Callable[[], Modules]
    config_class: type[Any]
    config: ConfigRules
    sizes: Callable[[Any], Sizes]
    rows: Callable[[Any], tuple[Layer | Attention, ...]]
    float_parts: Callable[[Any], tuple[FloatPart, ...]]
    float_steps: tuple[FloatPart, ...]
    tied: tuple[tuple[str, str], ...]
    layout: Layout
    naming: Naming
    processor: str
    image_processor: str = ""
    shapes: Callable[[Any], Shapes] | None = None
    calls: Callable[[Any], Any] | None = None
    licence: Licence | None = None
    options: Mapping[str, LoadingOption] = field(default_factory=dict)
