"""Small SAM 2 models with random weights: the published one has no size that a test could use."""

from __future__ import annotations

from typing import Any

import torch
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
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
            **decoder,
        },
    )


def tiny_sam2(seed: int = 0, side: int = SIDE, **decoder: Any) -> Sam2Model:
    """Random weights large enough that every part matters, the same for the same seed."""
    config = tiny_config(side, **decoder)
    config._attn_implementation = "sdpa"
    model = Sam2Model(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.ndim > 1 else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    table = torch.randn((2, 16), generator=generator)
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.copy_(table)
    return model
