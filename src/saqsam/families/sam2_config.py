"""What a ``Sam2Config`` may say. A video model's says the same of its image part.

SAM 3's tracker has SAM 2's prompt encoder and mask decoder, and takes from here what is said of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from saqsam.families.record import Check, ConfigRules, Sizes
from saqsam.images.frame import Preprocessing

_STAGES = 4
_PATCH, _STRIDE = 16, 4
_COARSEST = 32
"""Pixels of a side of a token after the last stage."""


def just(wanted: object) -> Check:
    """Published models have this value, and the forward pass is written for it."""
    return lambda value: (list(value) if isinstance(value, tuple) else value) == wanted


def _per_stage(check: Callable[[object], bool]) -> Check:
    return lambda value: (
        isinstance(value, list | tuple) and len(value) == _STAGES and all(check(one) for one in value)
    )


def _pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(is_count(side) for side in value)


def is_square(value: object) -> bool:
    return is_count(value) or (isinstance(value, list | tuple) and _pair(value) and value[0] == value[1])


def are_levels(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_pair(one) for one in value)


_BACKBONE: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "num_attention_heads"), is_count),
    "num_channels": just(3),
    "image_size": is_square,
    "patch_kernel_size": just([7, 7]),
    "patch_stride": just([_STRIDE, _STRIDE]),
    "patch_padding": just([3, 3]),
    "query_stride": just([2, 2]),
    "window_positional_embedding_background_size": _pair,
    "num_query_pool_stages": just(_STAGES - 1),
    "blocks_per_stage": _per_stage(is_depth),
    **dict.fromkeys(
        ("embed_dim_per_stage", "num_attention_heads_per_stage", "window_size_per_stage"),
        _per_stage(is_count),
    ),
    "global_attention_blocks": are_indexes,
    "mlp_ratio": is_ratio,
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "initializer_range": is_share,
}
_VISION: dict[str, Check] = {
    "backbone_channel_list": _per_stage(is_count),
    "backbone_feature_sizes": are_levels,
    "fpn_hidden_size": is_count,
    "fpn_kernel_size": just(1),
    "fpn_stride": just(1),
    "fpn_padding": just(0),
    "fpn_top_down_levels": just([2, 3]),
    "num_feature_levels": just(3),
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "initializer_range": is_share,
}
PROMPT_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "image_size", "mask_input_channels"), is_count),
    "patch_size": just(_PATCH),
    "num_point_embeddings": just(4),
    "hidden_act": is_activation,
    "layer_norm_eps": is_epsilon,
    "scale": just(1),
}
DECODER_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "num_attention_heads", "mlp_dim"), is_count),
    **dict.fromkeys(("attention_downsample_rate", "iou_head_hidden_dim"), is_count),
    **dict.fromkeys(("num_multimask_outputs", "iou_head_depth"), is_depth),
    "num_hidden_layers": just(2),  # of the transformer, and in transformers' code of its MLPs too
    "hidden_act": is_activation,
    "dynamic_multimask_via_stability": is_flag,
    "dynamic_multimask_stability_delta": lambda value: type(value) in (int, float) and 0 <= value <= 100,  # type: ignore[operator]
    "dynamic_multimask_stability_thresh": is_share,
}


def _side(config: Any) -> int:
    side = config.vision_config.backbone_config.image_size
    return int(side if isinstance(side, int) else side[0])


Division = tuple[str, int, str, int]
"""What is to be divided, and by what, each with its name."""


def indivisible(divisions: Iterable[Division]) -> str | None:
    """The first of them that leaves a remainder, in words."""
    for name, number, divisor_name, divisor in divisions:
        if number % divisor:
            return f"{name} ({number}) is no multiple of {divisor_name} ({divisor})"
    return None


def decoder_problem(config: Any) -> str | None:
    """What is wrong between the values for neck, prompts and decoder, or ``None``."""
    prompts, decoder = config.prompt_encoder_config, config.mask_decoder_config
    inner = decoder.hidden_size // decoder.attention_downsample_rate
    divisions = (
        ("the decoder's width", decoder.hidden_size, "its downsampling", decoder.attention_downsample_rate),
        ("the decoder's inner width", inner, "its number of heads", decoder.num_attention_heads),
        ("the decoder's width", decoder.hidden_size, "8", 8),
        ("the mask prompt's channels", prompts.mask_input_channels, "4", 4),
    )
    widths = {config.vision_config.fpn_hidden_size, prompts.hidden_size, decoder.hidden_size}
    if len(widths) > 1:
        return f"neck, prompts and decoder have different widths {sorted(widths)}"
    return indivisible(divisions)


def _problem(config: Any) -> str | None:
    """What is wrong between the values of a ``Sam2Config``, or ``None``."""
    vision, prompts = config.vision_config, config.prompt_encoder_config
    backbone = vision.backbone_config
    side = _side(config)
    if side != prompts.image_size:
        return (
            f"image_size is {side} in the encoder and {prompts.image_size} for prompts, so coordinates would "
            "be off"
        )
    levels = [[side // scale] * 2 for scale in (4, 8, 16)]
    if [list(level) for level in vision.backbone_feature_sizes] != levels:
        return (
            f"backbone_feature_sizes are {vision.backbone_feature_sizes}, expected {levels} for {side} pixels"
        )
    stages = list(backbone.embed_dim_per_stage)
    if list(vision.backbone_channel_list) != stages[::-1] or stages[0] != backbone.hidden_size:
        return f"the neck reads channels {vision.backbone_channel_list}, the stages have {stages}"
    first, *others = backbone.window_size_per_stage
    divisions = (
        ("image_size", side, "the coarsest token", _COARSEST),
        ("the first stage's grid", side // _STRIDE, "its windows", first),
        *(("windows of queries that are pooled", window, "2", 2) for window in (first, *others[:-1])),
        *(
            ("a stage's width", width, "its number of heads", heads)
            for width, heads in zip(stages, backbone.num_attention_heads_per_stage, strict=True)
        ),
    )
    problem = indivisible(divisions) or decoder_problem(config)
    if problem:
        return problem
    if any(index >= sum(backbone.blocks_per_stage) for index in backbone.global_attention_blocks):
        return f"global attention in blocks {backbone.global_attention_blocks} of {backbone.blocks_per_stage}"
    return None


def _deepest(config: Any) -> int:
    decoder = config.mask_decoder_config
    blocks = sum(config.vision_config.backbone_config.blocks_per_stage)
    deepest: int = max(blocks, decoder.num_multimask_outputs, decoder.iou_head_depth)
    return deepest


SAM2_RULES = ConfigRules(
    fields={
        ("vision_config",): _VISION,
        ("vision_config", "backbone_config"): _BACKBONE,
        ("prompt_encoder_config",): PROMPT_FIELDS,
        ("mask_decoder_config",): DECODER_FIELDS,
    },
    published={},
    constants={("vision_config", "backbone_config"): {"model_type": "sam2_hiera_det_model"}},
    problem=_problem,
    depth=_deepest,
)


def sam2_sizes(config: Any) -> Sizes:
    """Sizes of a SAM 2's inputs and outputs; images are resized to a square, each side by its own factor."""
    side, width = _side(config), int(config.vision_config.fpn_hidden_size)
    fine, middle, grid = side // 4, side // 8, side // 16
    embedding = ((width, grid, grid), (width // 8, fine, fine), (width // 4, middle, middle))
    masks = int(config.mask_decoder_config.num_multimask_outputs)
    return Sizes(Preprocessing(side, pads=False), embedding, 4 * grid, masks, object_scores=True)
