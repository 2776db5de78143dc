"""Small SAM 2 models with random weights: the published one has no size that a test could use."""

from __future__ import annotations

from typing import Any

from tests.families.levels_models import WIDTH, decoder_config, filled
from transformers import Sam2Config, Sam2Model

SIDE = 128
_STAGES = {
    "blocks_per_stage": [1, 2, 3, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 6, 3],
    "global_attention_blocks": [4],
}


def tiny_config(side: int = SIDE, **decoder: Any) -> Sam2Config:
    """Four stages, a window that does not divide its grid, a block with global attention."""
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "image_size": [side, side],
                "mlp_ratio": 2.0,
                **_STAGES,
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[side // scale] * 2 for scale in (4, 8, 16)],
            "fpn_hidden_size": WIDTH,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": side},
        mask_decoder_config=decoder_config(**decoder),
    )


def tiny_sam2(seed: int = 0, side: int = SIDE, **decoder: Any) -> Sam2Model:
    """Random weights large enough that every part matters, the same for the same seed."""
    config = tiny_config(side, **decoder)
    config._attn_implementation = "sdpa"
    model = Sam2Model(config)
    filled(model, model.named_parameters(), seed)
    return model
