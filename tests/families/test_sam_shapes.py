"""The table of names and shapes is what ``transformers`` lays out, whatever the configuration."""

from __future__ import annotations

import pytest
import torch
from transformers import SamConfig, SamModel

from saqsam.families.sam_shapes import sam_shapes

_SMALL = {"vision_config": {"num_hidden_layers": 3, "global_attn_indexes": [1]}}
_CONFIGS = {
    "b": {},
    "h": {
        "vision_config": {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "global_attn_indexes": [7, 15, 23, 31],
        }
    },
    "other widths": {
        "vision_config": {
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "mlp_ratio": 3.0,
            "image_size": 96,
            "patch_size": 8,
            "output_channels": 32,
            "num_pos_feats": 16,
            "window_size": 5,
            "global_attn_indexes": [0],
        },
        "prompt_encoder_config": {
            "hidden_size": 32,
            "image_size": 96,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        "mask_decoder_config": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "mlp_dim": 40,
            "attention_downsample_rate": 4,
            "num_multimask_outputs": 5,
            "iou_head_depth": 5,
            "iou_head_hidden_dim": 24,
        },
    },
    "no windows": {"vision_config": {**_SMALL["vision_config"], "window_size": 0}},
    "no biases": {"vision_config": {**_SMALL["vision_config"], "qkv_bias": False}},
    "no relative positions": {"vision_config": {**_SMALL["vision_config"], "use_rel_pos": False}},
    "shallow head": {**_SMALL, "mask_decoder_config": {"iou_head_depth": 1, "num_multimask_outputs": 1}},
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_names_and_shapes_are_those_of_the_model(name: str) -> None:
    config = SamConfig(**_CONFIGS[name])
    with torch.device("meta"):
        state = SamModel(config).state_dict()
    assert sam_shapes(config) == {key: tuple(tensor.shape) for key, tensor in state.items()}
