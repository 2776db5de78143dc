"""What a ``Sam3TrackerConfig`` may say. A video model's says the same of its tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saqsam.families.config_checks import (
    are_indexes,
    is_activation,
    is_count,
    is_depth,
    is_epsilon,
    is_ratio,
    is_share,
)
from saqsam.families.record import Check, ConfigRules, Sizes
from saqsam.families.sam2_config import (
    DECODER_FIELDS,
    PROMPT_FIELDS,
    are_levels,
    decoder_problem,
    indivisible,
    is_square,
    just,
)
from saqsam.images.frame import Preprocessing

FACTORS = (4.0, 2.0, 1.0)
"""Of the neck's levels to the encoder's grid."""
_LARGEST_GRID = 512
"""Tokens of a side; tables of positions are laid out for all of them, and published models have 72."""
_HALF = (0.5, 0.5, 0.5)


def _factors(value: object) -> bool:
    """Those of the tracker, also with the coarser level that prompts never reach."""
    return isinstance(value, list | tuple) and list(value) in ([*FACTORS], [*FACTORS, 0.5])


def _axial(value: object) -> bool:
    """Rotary positions of rows and columns; ``None`` for the published ones."""
    return value is None or (
        isinstance(value, Mapping)
        and set(value) == {"rope_type", "rope_theta"}
        and value["rope_type"] == "axial"
        and is_ratio(value["rope_theta"])
    )


_BACKBONE: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads"), is_count),
    **dict.fromkeys(("patch_size", "window_size"), is_count),
    **dict.fromkeys(("image_size", "pretrain_image_size"), is_square),
    "num_hidden_layers": is_depth,
    "num_channels": just(3),
    "global_attn_indexes": are_indexes,
    "rope_parameters": _axial,
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "initializer_range": is_share,
}
_VISION: dict[str, Check] = {
    "backbone_feature_sizes": are_levels,
    "fpn_hidden_size": is_count,
    "scale_factors": _factors,
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "initializer_range": is_share,
}


def _side(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _problem(config: Any) -> str | None:
    """What is wrong between the values of a ``Sam3TrackerConfig``, or ``None``."""
    backbone, prompts = config.vision_config.backbone_config, config.prompt_encoder_config
    side, patch = _side(backbone.image_size), int(backbone.patch_size)
    if (side, patch) != (prompts.image_size, prompts.patch_size):
        return (
            f"image_size is {side} and patch_size {patch} in the encoder, {prompts.image_size} and "
            f"{prompts.patch_size} for prompts, so coordinates would be off"
        )
    grid = side // patch
    levels = [[int(factor) * grid] * 2 for factor in FACTORS]
    found = [list(level) for level in config.vision_config.backbone_feature_sizes]
    if found != levels:
        return f"backbone_feature_sizes are {found}, expected {levels} for {side} pixels"
    if not 1 <= grid <= _LARGEST_GRID or backbone.window_size > grid:
        return f"a grid of {grid} tokens with windows of {backbone.window_size} is none that SAM 3 could have"
    if any(index >= backbone.num_hidden_layers for index in backbone.global_attn_indexes):
        return (
            f"global attention in blocks {list(backbone.global_attn_indexes)} of {backbone.num_hidden_layers}"
        )
    heads = int(backbone.num_attention_heads)
    divisions = (
        ("image_size", side, "patch_size", patch),
        ("pretrain_image_size", _side(backbone.pretrain_image_size), "patch_size", patch),
        ("the encoder's width", backbone.hidden_size, "4 channels for each of its heads", 4 * heads),
    )
    return indivisible(divisions) or decoder_problem(config)


def _deepest(config: Any) -> int:
    decoder = config.mask_decoder_config
    blocks = config.vision_config.backbone_config.num_hidden_layers
    deepest: int = max(blocks, decoder.num_multimask_outputs, decoder.iou_head_depth)
    return deepest


SAM3_RULES = ConfigRules(
    fields={
        ("vision_config",): _VISION,
        ("vision_config", "backbone_config"): _BACKBONE,
        ("prompt_encoder_config",): {**PROMPT_FIELDS, "patch_size": is_count},
        ("mask_decoder_config",): DECODER_FIELDS,
    },
    published={("vision_config",): {"scale_factors": list(FACTORS)}},
    constants={("vision_config", "backbone_config"): {"model_type": "sam3_vit_model"}},
    problem=_problem,
    depth=_deepest,
    within={"sam3_video": "tracker_config"},
)
"""The coarser level is left out, as in the published image predictor, so that what stands for earlier frames
is added to the embedding: ``transformers`` adds it to the last level, which of four it throws away."""


def sam3_sizes(config: Any) -> Sizes:
    """Sizes of a SAM 3's inputs and outputs; images are resized to a square, each side by its own factor."""
    backbone, width = config.vision_config.backbone_config, int(config.vision_config.fpn_hidden_size)
    side = _side(backbone.image_size)
    grid = side // int(backbone.patch_size)
    embedding = ((width, grid, grid), (width // 8, 4 * grid, 4 * grid), (width // 4, 2 * grid, 2 * grid))
    masks = int(config.mask_decoder_config.num_multimask_outputs)
    preprocessing = Preprocessing(side, pads=False, mean=_HALF, std=_HALF)
    return Sizes(preprocessing, embedding, 4 * grid, masks, object_scores=True)
