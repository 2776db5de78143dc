"""SAM 2 and 2.1 on images (Ravi et al. 2024, arXiv:2408.00714), as ``transformers.Sam2Model`` lays them out.

Quantized is what is of SAM 1: every linear layer and convolution of the image encoder and of the mask
decoder's transformer, with the inputs, and in each attention the query, key, value and map. The decoder's two
convolutions of fine features run once for an image and count as the encoder's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import Sam2Config

from saqsam.families import sam2_names as names
from saqsam.families.record import (
    CONVOLUTION,
    DECODER,
    ENCODER,
    MLP_IN,
    MLP_OUT,
    OUTPUT,
    PROJECTION,
    Attention,
    Family,
    FloatPart,
    Layer,
    Modules,
)
from saqsam.families.sam2_config import SAM2_RULES, sam2_sizes
from saqsam.families.sam2_layout import SAM2_LAYOUT, TIED
from saqsam.families.sam2_sizes import SAM2_NAMING

POSITION = "a table of positions: added, never multiplied with 8-bit operands"
NORM = "normalisation divides by a statistic of its input; its few parameters cost nothing"
_BIAS = "added to the accumulator at its own precision"
_PROMPT = "prompt tokens: a handful of vectors for each prompt, never worth their error"
_HEAD = "runs once for each prompt on a few tokens, after the last quantized layer"
_FIRST = "first layer: reads pixels, 0.6 % of the multiplications"
_UPSCALE = "upscaling to mask resolution: 2x2 transposed convolution"
_NO_MEMORY = "a constant added to the embedding"


def _blocks(model: Any) -> list[tuple[names.BlockNames, Any]]:
    modules = model.vision_encoder.backbone.blocks
    return [
        (names.BlockNames.of(index, pooled=bool(block.query_stride)), block)
        for index, block in enumerate(modules)
    ]


def _decoder_layers(model: Any) -> list[names.DecoderLayerNames]:
    return [names.DecoderLayerNames.of(index) for index in range(len(model.mask_decoder.transformer.layers))]


def _rows(model: Any) -> tuple[Layer | Attention, ...]:
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


def _float_parts(model: Any) -> tuple[FloatPart, ...]:
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


def _modules() -> Modules:
    from saqsam.families.sam2_modules import SAM2_MODULES

    return SAM2_MODULES


SAM2 = Family(
    name="SAM 2",
    model_types=("sam2", "sam2_video"),
    modules=_modules,
    config_class=Sam2Config,
    config=SAM2_RULES,
    sizes=sam2_sizes,
    rows=_rows,
    float_parts=_float_parts,
    float_steps=_FLOAT_STEPS,
    tied=TIED,
    layout=SAM2_LAYOUT,
    naming=SAM2_NAMING,
    processor="Sam2Processor",
)
"""Tiny has 89 weights and 165 activations (small: 105 and 197, base+: 137 and 261, large: 233 and 453)."""
