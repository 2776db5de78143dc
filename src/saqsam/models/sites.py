"""The one table of everything that is quantized, and of everything that is not and why.

Attaching, calibrating, packing, auditing and reporting all iterate over it. It is built by walking
the structure of ``transformers.SamModel``, never by looking for words in module names. Which tensors
are listed follows PTQ4SAM and SAQ-SAM: every linear layer and convolution of the image encoder and of
the mask decoder's transformer, with the inputs, and in each attention the query, key, value and map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import SamModel

ENCODER, DECODER = "encoder", "decoder"
WEIGHT, INPUT = "weight", "input"
QUERY, KEY, VALUE, ATTENTION = "query", "key", "value", "attention"
ATTENTION_ROLES = (QUERY, KEY, VALUE, ATTENTION)


@dataclass(frozen=True)
class Site:
    """One tensor that is quantized.

    Attributes:
        path: module that owns the tensor, as in ``model.get_submodule(path)``.
        role: ``weight``, ``input``, ``query``, ``key``, ``value`` or ``attention`` (the softmax output).
        part: ``encoder`` (image encoder with its neck) or ``decoder`` (two-way transformer).
    """

    path: str
    role: str
    part: str

    @property
    def name(self) -> str:
        """``"<path>:<role>"``, unique in the model."""
        return f"{self.path}:{self.role}"

    @property
    def granularity(self) -> str:
        """Weights have a scale for each output channel, activations one for the tensor."""
        return "per-channel" if self.role == WEIGHT else "per-tensor"


@dataclass(frozen=True)
class FloatPart:
    """A module (or a parameter, or a step without parameters) that stays in floating point.

    Attributes:
        path: module or parameter path; for a step without parameters, where it happens.
        reason: why it is not quantized.
    """

    path: str
    reason: str


def quantized_sites(model: SamModel) -> tuple[Site, ...]:
    """Every tensor to quantize, in the order in which the model computes them.

    SAM-B has 82 weights and 158 activations (L: 130 and 254, H: 162 and 318).
    """
    return (*_encoder_sites(model), *_decoder_sites(model))


def _layer(path: str, part: str) -> tuple[Site, Site]:
    return Site(path, INPUT, part), Site(path, WEIGHT, part)


def _encoder_sites(model: SamModel) -> Iterator[Site]:
    for index in range(len(model.vision_encoder.layers)):
        block = f"vision_encoder.layers.{index}"
        yield from _layer(f"{block}.attn.qkv", ENCODER)
        yield from (Site(f"{block}.attn", role, ENCODER) for role in ATTENTION_ROLES)
        for name in ("attn.proj", "mlp.lin1", "mlp.lin2"):
            yield from _layer(f"{block}.{name}", ENCODER)
    for name in ("conv1", "conv2"):
        yield from _layer(f"vision_encoder.neck.{name}", ENCODER)


def _decoder_sites(model: SamModel) -> Iterator[Site]:
    transformer = "mask_decoder.transformer"
    for index in range(len(model.mask_decoder.transformer.layers)):
        block = f"{transformer}.layers.{index}"
        yield from _attention_sites(f"{block}.self_attn")
        yield from _attention_sites(f"{block}.cross_attn_token_to_image")
        yield from _layer(f"{block}.mlp.lin1", DECODER)
        yield from _layer(f"{block}.mlp.lin2", DECODER)
        yield from _attention_sites(f"{block}.cross_attn_image_to_token")
    yield from _attention_sites(f"{transformer}.final_attn_token_to_image")


def _attention_sites(path: str) -> Iterator[Site]:
    for name in ("q_proj", "k_proj", "v_proj"):
        yield from _layer(f"{path}.{name}", DECODER)
    yield from (Site(path, role, DECODER) for role in ATTENTION_ROLES)
    yield from _layer(f"{path}.out_proj", DECODER)


def decoder_attention_paths(model: SamModel) -> tuple[str, ...]:
    """Paths of the mask decoder's attentions (7 in SAM), in the order in which they run."""
    return tuple(site.path for site in _decoder_sites(model) if site.role == QUERY)


def encoder_attention_paths(model: SamModel) -> tuple[str, ...]:
    """Paths of the image encoder's attentions, first block first."""
    return tuple(site.path for site in _encoder_sites(model) if site.role == QUERY)


_POSITION = "a table of positions: added, never multiplied with 8-bit operands"
_NORM = "normalisation divides by a statistic of its input; its few parameters cost nothing"
_BIAS = "added to the accumulator at its own precision"
_PROMPT = "prompt tokens: a handful of vectors for each prompt, never worth their error"
_HEAD = "runs once for each prompt on a few tokens, after the last quantized layer"


def float_parts(model: SamModel) -> tuple[FloatPart, ...]:
    """Everything that stays float, with the reason; together with the weights of
    ``quantized_sites`` these paths own every parameter of the model exactly once."""
    parts = [
        FloatPart("shared_image_embedding", _PROMPT),
        FloatPart("vision_encoder.pos_embed", _POSITION),
        FloatPart("vision_encoder.patch_embed", "first layer: reads pixels, 0.5 % of the multiplications"),
    ]
    parts += _encoder_float_parts(model)
    parts.append(FloatPart("prompt_encoder", _PROMPT))
    parts += [FloatPart(f"mask_decoder.{name}", _PROMPT) for name in ("iou_token", "mask_tokens")]
    parts += _decoder_float_parts(model)
    parts += [
        FloatPart("mask_decoder.upscale_conv1", "upscaling to mask resolution: 2x2 transposed convolution"),
        FloatPart("mask_decoder.upscale_conv2", "upscaling to mask resolution: 2x2 transposed convolution"),
        FloatPart("mask_decoder.upscale_layer_norm", _NORM),
        FloatPart("mask_decoder.output_hypernetworks_mlps", _HEAD),
        FloatPart("mask_decoder.iou_prediction_head", _HEAD),
    ]
    return tuple(parts)


def _encoder_float_parts(model: SamModel) -> Iterator[FloatPart]:
    for index, block in enumerate(model.vision_encoder.layers):
        path = f"vision_encoder.layers.{index}"
        yield FloatPart(f"{path}.layer_norm1", _NORM)
        yield FloatPart(f"{path}.layer_norm2", _NORM)
        if vars(block.attn)["use_rel_pos"]:
            yield FloatPart(f"{path}.attn.rel_pos_h", _POSITION)
            yield FloatPart(f"{path}.attn.rel_pos_w", _POSITION)
        yield from _biases(path, block, ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"))
    for name in ("layer_norm1", "layer_norm2"):
        yield FloatPart(f"vision_encoder.neck.{name}", _NORM)


def _decoder_float_parts(model: SamModel) -> Iterator[FloatPart]:
    transformer = model.mask_decoder.transformer
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    for index, block in enumerate(transformer.layers):
        path = f"mask_decoder.transformer.layers.{index}"
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            yield from _biases(f"{path}.{name}", block.get_submodule(name), projections)
        yield from _biases(path, block, ("mlp.lin1", "mlp.lin2"))
        yield from (FloatPart(f"{path}.layer_norm{number}", _NORM) for number in (1, 2, 3, 4))
    final = "mask_decoder.transformer.final_attn_token_to_image"
    yield from _biases(final, transformer.final_attn_token_to_image, projections)
    yield FloatPart("mask_decoder.transformer.layer_norm_final_attn", _NORM)


def _biases(path: str, module: nn.Module, names: tuple[str, ...]) -> Iterator[FloatPart]:
    for name in names:
        if getattr(module.get_submodule(name), "bias", None) is not None:
            yield FloatPart(f"{path}.{name}.bias", _BIAS)


FLOAT_STEPS = (
    FloatPart(
        "vision_encoder attention", "relative-position product (query · table), softmax, GELU, residual sums"
    ),
    FloatPart("mask_decoder attention", "softmax, ReLU, residual sums, positional sums"),
    FloatPart("mask_decoder", "product of hypernetwork outputs with the upscaled embedding"),
)
"""Arithmetic without parameters that stays float; listed so that "W4A4" can be checked by a reader."""
