"""What a ``SamConfig`` may say.

``transformers`` accepts heads that do not divide the width, a prompt encoder of another image size, a patch
of 0; such a model is built and then fails, or segments wrongly without a word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saqsam.families.config_checks import (
    are_indexes,
    is_activation,
    is_count,
    is_depth,
    is_epsilon,
    is_flag,
    is_ratio,
    is_share,
)
from saqsam.families.loading_option import LoadingOption
from saqsam.families.record import ConfigRules, Sizes
from saqsam.images.frame import Preprocessing

PREPROCESSINGS = ("sam", "medsam")
"""How a model wants its images: as SAM, or as MedSAM (Ma et al. 2024, arXiv:2304.12306), a SAM-B trained on
pictures that are squashed into the input, their values brought to 0..1 by the least and largest of each."""
_VISION = {
    **dict.fromkeys(("hidden_size", "num_attention_heads", "image_size"), is_count),
    **dict.fromkeys(("patch_size", "output_channels", "num_pos_feats"), is_count),
    "num_hidden_layers": is_depth,
    "initializer_range": is_share,
    "scale": is_ratio,  # of no effect; kept so that a model packed again gives the same bytes
    "num_channels": lambda value: value == 3,
    "mlp_dim": lambda value: value is None or is_count(value),
    "mlp_ratio": is_ratio,
    "window_size": lambda value: value == 0 or is_count(value),
    "global_attn_indexes": are_indexes,
    "qkv_bias": is_flag,
    "use_rel_pos": is_flag,
    "use_abs_pos": lambda value: value is True,
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "preprocessing": lambda value: value in PREPROCESSINGS,
}
_PROMPTS = {
    **dict.fromkeys(("hidden_size", "image_size", "patch_size", "mask_input_channels"), is_count),
    "num_point_embeddings": lambda value: value == 4,
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
}
_DECODER = {
    **dict.fromkeys(("hidden_size", "num_attention_heads", "mlp_dim"), is_count),
    **dict.fromkeys(("attention_downsample_rate", "iou_head_hidden_dim"), is_count),
    **dict.fromkeys(("num_hidden_layers", "num_multimask_outputs", "iou_head_depth"), is_depth),
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
}


def contradiction(config: Any) -> str | None:
    """What is wrong between the values of a ``SamConfig``, or ``None``."""
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    for name in ("image_size", "patch_size"):
        one, other = getattr(vision, name), getattr(prompts, name)
        if one != other:
            return f"{name} is {one} in the encoder and {other} for prompts, so coordinates would be off"
    inner = decoder.hidden_size // decoder.attention_downsample_rate
    divisions = (
        ("image_size", vision.image_size, "patch_size", vision.patch_size),
        ("the encoder's width", vision.hidden_size, "its number of heads", vision.num_attention_heads),
        ("the decoder's width", decoder.hidden_size, "its downsampling", decoder.attention_downsample_rate),
        ("the decoder's inner width", inner, "its number of heads", decoder.num_attention_heads),
        ("the mask prompt's channels", prompts.mask_input_channels, "4", 4),
    )
    for name, number, divisor_name, divisor in divisions:
        if number % divisor:
            return f"{name} ({number}) is no multiple of {divisor_name} ({divisor})"
    widths = {vision.output_channels, prompts.hidden_size, decoder.hidden_size, 2 * vision.num_pos_feats}
    if len(widths) > 1:
        return f"encoder output, positions, prompts and decoder have different widths {sorted(widths)}"
    if any(index >= vision.num_hidden_layers for index in vision.global_attn_indexes):
        return f"global attention in blocks {vision.global_attn_indexes}, of {vision.num_hidden_layers}"
    return None


def deepest_part(config: Any) -> int:
    """The largest number of layers that a ``SamConfig`` asks for."""
    decoder = config.mask_decoder_config
    deepest: int = max(
        config.vision_config.num_hidden_layers,
        decoder.num_hidden_layers,
        decoder.num_multimask_outputs,
        decoder.iou_head_depth,
    )
    return deepest


RULES = ConfigRules(
    fields={
        ("vision_config",): _VISION,
        ("prompt_encoder_config",): _PROMPTS,
        ("mask_decoder_config",): _DECODER,
    },
    published={("mask_decoder_config",): {"layer_norm_eps": 1e-5}},
    problem=contradiction,
    depth=deepest_part,
    idle=frozenset(("initializer_range", "scale", "mlp_ratio")),  # the width of an MLP is said by mlp_dim
)
"""Decoder layer norms use 1e-5 as the published code does; files saved by ``transformers``' own conversion
hold its default instead."""


def sam_sizes(config: Any) -> Sizes:
    """Sizes of a SAM's inputs and outputs."""
    vision = config.vision_config
    grid = vision.image_size // vision.patch_size
    preprocessing = Preprocessing(int(vision.image_size))
    if getattr(vision, "preprocessing", "sam") == "medsam":
        preprocessing = replace(preprocessing, pads=False, bicubic=True, spread=True)
    return Sizes(
        preprocessing,
        ((int(vision.output_channels), grid, grid),),
        4 * int(config.prompt_encoder_config.image_embedding_size),
        int(config.mask_decoder_config.num_multimask_outputs),
    )


SAM_OPTIONS = {"preprocessing": LoadingOption(("vision_config",), {name: name for name in PREPROCESSINGS})}
