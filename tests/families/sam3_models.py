"""Small SAM 3 trackers with random weights."""

from __future__ import annotations

from typing import Any

import torch
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
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "scale_factors": [4.0, 2.0, 1.0, 0.5][:levels],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
            **decoder,
        },
    )


def tiny_sam3(seed: int = 0, *, levels: int = 3, **decoder: Any) -> Sam3TrackerModel:
    """Random weights large enough that every part matters, the same for the same seed."""
    config = tiny_config(levels=levels, **decoder)
    config._attn_implementation = "sdpa"
    model = Sam3TrackerModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        spread = 0.3 if parameter.ndim > 1 else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    table = torch.randn((2, 16), generator=generator)
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.copy_(table)
    return model
