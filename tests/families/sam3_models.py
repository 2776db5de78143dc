"""Small SAM 3 trackers with random weights."""

from __future__ import annotations

from typing import Any

from tests.families.levels_models import WIDTH, decoder_config, filled
from transformers import Sam3TrackerConfig, Sam3TrackerModel

SIDE = 112


def tiny_config(*, levels: int = 3, **decoder: Any) -> Sam3TrackerConfig:
    """Three blocks on 8 x 8 tokens: windows that do not divide the grid, and a block with global attention.

    Args:
        levels: of the neck: three, or four as published files have.
        decoder: of the mask decoder.
    """
    return Sam3TrackerConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 14,
                "window_size": 3,
                "global_attn_indexes": [1],
                "pretrain_image_size": 42,
            },
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "scale_factors": [4.0, 2.0, 1.0, 0.5][:levels],
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE},
        mask_decoder_config=decoder_config(**decoder),
    )


def tiny_sam3(seed: int = 0, *, levels: int = 3, **decoder: Any) -> Sam3TrackerModel:
    """Random weights large enough that every part matters, the same for the same seed."""
    config = tiny_config(levels=levels, **decoder)
    config._attn_implementation = "sdpa"
    model = Sam3TrackerModel(config)
    filled(model, sorted(model.named_parameters()), seed)
    return model
