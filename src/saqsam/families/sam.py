"""SAM 1 (Kirillov et al. 2023, arXiv:2304.02643), as ``transformers.SamModel`` lays it out.

Which tensors are quantized follows PTQ4SAM and SAQ-SAM: every linear layer and convolution of the image
encoder and of the mask decoder's transformer, with the inputs, and in each attention the query, key, value
and map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import SamConfig

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
from saqsam.families.sam_calls import SamCalls
from saqsam.families.sam_config import RULES, SAM_OPTIONS, sam_sizes
from saqsam.families.sam_layout import SAM_LAYOUT, TIED
from saqsam.families.sam_names import DecoderLayerNames, EncoderBlockNames
from saqsam.families.sam_shapes import sam_names, sam_shapes
from saqsam.families.sam_sizes import SAM_NAMING

_POSITION = "a table of positions: added, never multiplied with 8-bit operands"
_NORM = "normalisation divides by a statistic of its input; its few parameters cost nothing"
_BIAS = "added to the accumulator at its own precision"
PROMPT = "prompt tokens: a handful of vectors for each prompt, never worth their error"
HEAD = "runs once for each prompt on a few tokens, after the last quantized layer"
_FIRST = "first layer: reads pixels, 0.5 % of the multiplications"
_UPSCALE = "upscaling to mask resolution: 2x2 transposed convolution"


def _rows(model: Any) -> tuple[Layer | Attention, ...]:
    names = sam_names(model.config)
    rows: list[Layer | Attention] = []
    for block in names.blocks:
        rows += _block_rows(block)
    rows += [Layer(path, ENCODER, CONVOLUTION) for path in names.neck_convolutions]
    for layer in names.layers:
        rows += _layer_rows(layer)
    return (*rows, *_with_layers(names.final_attention))


def _block_rows(block: EncoderBlockNames) -> Iterator[Layer | Attention]:
    yield from _with_layers(block.attention)
    yield Layer(block.mlp_in, ENCODER, MLP_IN)
    yield Layer(block.mlp_out, ENCODER, MLP_OUT)


def _layer_rows(layer: DecoderLayerNames) -> Iterator[Layer | Attention]:
    yield from _with_layers(layer.self_attention)
    yield from _with_layers(layer.tokens_to_image)
    yield Layer(layer.mlp_in, DECODER, MLP_IN)
    yield Layer(layer.mlp_out, DECODER, MLP_OUT)
    yield from _with_layers(layer.image_to_tokens)


def _with_layers(attention: Attention) -> Iterator[Layer | Attention]:
    """An attention with its own layers around it."""
    yield from (Layer(path, attention.part, PROJECTION) for path in attention.projections)
    yield attention
    yield Layer(attention.output, attention.part, OUTPUT)


def sam_float_parts(model: Any) -> tuple[FloatPart, ...]:
    names = sam_names(model.config)
    parts = [
        FloatPart(names.shared_positions, PROMPT),
        FloatPart(names.positions, _POSITION),
        FloatPart(names.patches, _FIRST),
    ]
    for block, module in zip(names.blocks, model.vision_encoder.layers, strict=True):
        parts += [FloatPart(path, _NORM) for path in block.norms]
        if vars(module.attn)["use_rel_pos"]:
            parts += [FloatPart(path, _POSITION) for path in block.tables]
        attention = block.attention
        parts += _biases(model, (*attention.projections, attention.output, block.mlp_in, block.mlp_out))
    parts += [FloatPart(path, _NORM) for path in names.neck_norms]
    parts += [FloatPart(path, PROMPT) for path in (names.prompts, *names.output_tokens)]
    for layer in names.layers:
        for attention in (layer.self_attention, layer.tokens_to_image, layer.image_to_tokens):
            parts += _biases(model, (*attention.projections, attention.output))
        parts += _biases(model, (layer.mlp_in, layer.mlp_out))
        parts += [FloatPart(path, _NORM) for path in layer.norms]
    parts += _biases(model, (*names.final_attention.projections, names.final_attention.output))
    parts.append(FloatPart(names.final_norm, _NORM))
    parts += [FloatPart(path, _UPSCALE) for path in names.upscaling]
    parts.append(FloatPart(names.upscaling_norm, _NORM))
    parts += [FloatPart(path, HEAD) for path in (names.mask_heads, names.iou_head)]
    return tuple(parts)


def _biases(model: Any, paths: tuple[str, ...]) -> Iterator[FloatPart]:
    for path in paths:
        if getattr(model.get_submodule(path), "bias", None) is not None:
            yield FloatPart(f"{path}.bias", _BIAS)


_SOFTMAX = "exponentials and their sum; what it gives is quantized"
_ELEMENTWISE = "element by element: no weights, no sums of products"
_FLOAT_STEPS = (
    FloatPart("vision_encoder: product of queries and tables of positions", "the tables are float"),
    FloatPart("vision_encoder: softmax", _SOFTMAX),
    FloatPart("vision_encoder: GELU, sums of the residual stream", _ELEMENTWISE),
    FloatPart("mask_decoder: softmax", _SOFTMAX),
    FloatPart("mask_decoder: ReLU, sums of residuals and positions", _ELEMENTWISE),
    FloatPart(
        "mask_decoder: product of mask heads and upscaled embedding",
        "both come after the last quantized layer",
    ),
)


def _modules() -> Modules:
    from saqsam.families.sam_modules import SAM_MODULES

    return SAM_MODULES


SAM = Family(
    name="SAM",
    model_types=("sam",),
    modules=_modules,
    config_class=SamConfig,
    config=RULES,
    sizes=sam_sizes,
    rows=_rows,
    float_parts=sam_float_parts,
    float_steps=_FLOAT_STEPS,
    tied=TIED,
    layout=SAM_LAYOUT,
    naming=SAM_NAMING,
    options=SAM_OPTIONS,
    processor="SamProcessor",
    shapes=sam_shapes,
    calls=SamCalls,
)
"""SAM-B has 82 weights and 158 activations (L: 130 and 254, H: 162 and 318)."""
