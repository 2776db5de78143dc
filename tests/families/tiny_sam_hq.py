"""An untrained tiny SAM-HQ, whose sizes are those of :mod:`tests.checkpoints.published`."""

from __future__ import annotations

from typing import Any

import torch
from tests.checkpoints.published import DECODER_HEADS, ENCODER_HEADS, GLOBAL, GRID, SIDE, WINDOW
from transformers import SamHQConfig, SamHQModel


def tiny_hq_config() -> SamHQConfig:
    """SAM-HQ's structure at 64 px."""
    sizes: dict[str, Any] = {"image_size": SIDE, "patch_size": SIDE // GRID}
    return SamHQConfig(
        vision_config={
            **sizes,
            "hidden_size": 48,
            "output_channels": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": ENCODER_HEADS,
            "window_size": WINDOW,
            "global_attn_indexes": list(GLOBAL),
            "num_pos_feats": 16,
            "mlp_dim": 96,
        },
        prompt_encoder_config={**sizes, "hidden_size": 32, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": DECODER_HEADS,
            "iou_head_hidden_dim": 32,
            "layer_norm_eps": 1e-5,
            "vit_dim": 48,
        },
    )


def with_weights(model: Any, seed: int = 3) -> Any:
    """The model with random weights, none of them zero, so that no path through it is dead."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter) * (0.2 if parameter.ndim < 2 else 0.12)
            parameter.data.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        model.shared_image_embedding.positional_embedding.data.normal_()
    model.tie_weights()
    return model.eval().requires_grad_(False)


def plain_sam_hq() -> SamHQModel:
    """As ``transformers`` makes it."""
    model: SamHQModel = with_weights(SamHQModel(tiny_hq_config()))
    return model
