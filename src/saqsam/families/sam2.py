"""SAM 2 and 2.1 on images (Ravi et al. 2024, arXiv:2408.00714), as ``transformers.Sam2Model`` lays them out.

Quantized is what is of SAM 1: every linear layer and convolution of the image encoder and of the mask
decoder's transformer, with the inputs, and in each attention the query, key, value and map. The decoder's two
convolutions of fine features run once for an image and count as the encoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2MultiScaleAttention

from saqsam.errors import InvariantError
from saqsam.families import sam2_names as names
from saqsam.families.decoder_attention import QuantDecoderAttention
from saqsam.families.hiera_attention import QuantHieraAttention
from saqsam.families.record import (
    CONVOLUTION,
    DECODER,
    ENCODER,
    MLP_IN,
    MLP_OUT,
    OUTPUT,
    PROJECTION,
    Adapter,
    Attention,
    Family,
    FloatPart,
    Layer,
)
from saqsam.families.sam2_config import SAM2_RULES, sam2_sizes
from saqsam.families.sam2_decoder import Sam2Decoder
from saqsam.families.sam2_encoder import Sam2Encoder
from saqsam.families.sam2_layout import SAM2_LAYOUT, TIED
from saqsam.families.sam2_sizes import SAM2_NAMING
from saqsam.modules.attention import AttentionQuantizers

POSITION = "a table of positions: added, never multiplied with 8-bit operands"
NORM = "normalisation divides by a statistic of its input; its few parameters cost nothing"
_BIAS = "added to the accumulator at its own precision"
_PROMPT = "prompt tokens: a handful of vectors for each prompt, never worth their error"
_HEAD = "runs once for each prompt on a few tokens, after the last quantized layer"
_FIRST = "first layer: reads pixels, 0.6 % of the multiplications"
_UPSCALE = "upscaling to mask resolution: 2x2 transposed convolution"
_NO_MEMORY = "a constant added to the embedding"


def _blocks(model: Sam2Model) -> list[tuple[names.BlockNames, Any]]:
    modules = model.vision_encoder.backbone.blocks
    return [
        (names.BlockNames.of(index, pooled=bool(block.query_stride)), block)
        for index, block in enumerate(modules)
    ]


def _decoder_layers(model: Any) -> list[names.DecoderLayerNames]:
    return [names.DecoderLayerNames.of(index) for index in range(len(model.mask_decoder.transformer.layers))]


def _rows(model: Sam2Model) -> tuple[Layer | Attention, ...]:
    rows: list[Layer | Attention] = []
    for block, module in _blocks(model):
        if hasattr(module, "proj"):
            rows.append(Layer(block.projection, ENCODER, PROJECTION))
        rows += with_layers(block.attention)
        rows += [Layer(block.mlp_in, ENCODER, MLP_IN), Layer(block.mlp_out, ENCODER, MLP_OUT)]
    convolutions = (*names.NECK_CONVOLUTIONS, *names.FEATURE_CONVOLUTIONS)
    rows += [Layer(path, ENCODER, CONVOLUTION) for path in convolutions]
    return (*rows, *decoder_rows(model))


def decoder_rows(model: Any) -> Iterator[Layer | Attention]:
    """Of the mask decoder's transformer, in the order in which they run."""
    for layer in _decoder_layers(model):
        own, to_image, to_tokens = layer.attentions
        yield from (*with_layers(own), *with_layers(to_image))
        yield from (Layer(layer.mlp_in, DECODER, MLP_IN), Layer(layer.mlp_out, DECODER, MLP_OUT))
        yield from with_layers(to_tokens)
    yield from with_layers(names.FINAL_ATTENTION)


def with_layers(attention: Attention) -> Iterator[Layer | Attention]:
    """An attention with its own layers around it."""
    yield from (Layer(path, attention.part, PROJECTION) for path in attention.projections)
    yield attention
    yield Layer(attention.output, attention.part, OUTPUT)


def _float_parts(model: Sam2Model) -> tuple[FloatPart, ...]:
    parts = [FloatPart(path, POSITION) for path in names.POSITIONS]
    parts.append(FloatPart(names.PATCHES, _FIRST))
    for block, _ in _blocks(model):
        parts += [FloatPart(path, NORM) for path in block.norms]
    return (*parts, *decoder_float_parts(model), *biases(_rows(model)))


def decoder_float_parts(model: Any) -> Iterator[FloatPart]:
    """Of prompt encoder and mask decoder, without biases."""
    yield FloatPart(names.NO_MEMORY, _NO_MEMORY)
    yield from (FloatPart(path, _PROMPT) for path in (names.PROMPTS, *names.OUTPUT_TOKENS))
    for layer in _decoder_layers(model):
        yield from (FloatPart(path, NORM) for path in layer.norms)
    yield FloatPart(names.FINAL_NORM, NORM)
    yield from (FloatPart(path, _UPSCALE) for path in names.UPSCALING)
    yield FloatPart(names.UPSCALING_NORM, NORM)
    yield from (FloatPart(path, _HEAD) for path in names.HEADS)


def biases(rows: Iterable[Layer | Attention]) -> Iterator[FloatPart]:
    """Of all layers among rows."""
    yield from (FloatPart(f"{row.path}.bias", _BIAS) for row in rows if isinstance(row, Layer))


DECODER_STEPS = (
    FloatPart("mask_decoder attention", "softmax, ReLU, residual sums, positional sums"),
    FloatPart("mask_decoder", "product of hypernetwork outputs with the upscaled embedding"),
)
_FLOAT_STEPS = (
    FloatPart("vision_encoder attention", "softmax, GELU, residual sums, 2x2 maximum of queries"),
    FloatPart("vision_encoder neck", "sum of a level and the enlarged coarser one"),
    *DECODER_STEPS,
)


def attention_adapter(
    encoder_kind: type[Any],
    decoder_kind: type[Any],
    quantized: Callable[[Any, AttentionQuantizers], nn.Module],
) -> Adapter:
    """Of a family with SAM 2's decoder.

    Args:
        encoder_kind, decoder_kind: classes of float attentions.
        quantized: makes the encoder's quantized.
    """

    def adapt(
        original: nn.Module, quantizers: AttentionQuantizers, row: Attention, float_rel_pos_query: bool
    ) -> nn.Module:
        del float_rel_pos_query  # there are no relative positions
        kind = encoder_kind if row.part == ENCODER else decoder_kind
        if not isinstance(original, kind):
            raise InvariantError(row.path, f"is a {type(original).__name__}, expected a {kind.__name__}")
        if row.part == ENCODER:
            return quantized(original, quantizers)
        return QuantDecoderAttention(original, quantizers, output="o_proj")

    return adapt


SAM2 = Family(
    name="SAM 2",
    model_types=("sam2", "sam2_video"),
    model_class=Sam2Model,
    config_class=Sam2Config,
    config=SAM2_RULES,
    sizes=sam2_sizes,
    rows=_rows,
    float_parts=_float_parts,
    float_steps=_FLOAT_STEPS,
    adapt=attention_adapter(Sam2MultiScaleAttention, Sam2Attention, QuantHieraAttention),
    encoder=Sam2Encoder,
    decoder=Sam2Decoder,
    tied=TIED,
    layout=SAM2_LAYOUT,
    naming=SAM2_NAMING,
    processor="Sam2Processor",
)
"""Tiny has 89 weights and 165 activations (small: 105 and 197, base+: 137 and 261, large: 233 and 453)."""
