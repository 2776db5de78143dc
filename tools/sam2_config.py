"""Architecture of ``nano-sam2``, the embedded SAM 2, and its first weights, most of them nano's.

Hiera's third stage has nano's grid and width, so nano's blocks are its blocks, without their relative
positions and with other windows. The first two stages are new and learn what nano's patch embedding gives.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from nano_data import normalised
from torch import Tensor, nn
from transformers import Sam2Config, Sam2Model, SamModel

from saqsam.scenes import make_scene

IMAGE, WIDTH = 256, 64
STAGES, BLOCKS = (32, 64, 128, 256), (1, 1, 6, 1)
FIRST_OF_NANO = sum(BLOCKS[:2]) + 1
"""The block behind the one that begins the third stage."""
_IOU_SLOPE = 4.5
"""sigmoid(4.5 (x - 0.5)) is within 0.04 of x between 0.3 and 0.9."""


def sam2_config() -> Sam2Config:
    """Published strides, so that 256 px make nano's 16 x 16 grid; the decoder is as wide as nano's."""
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": STAGES[0],
                "image_size": [IMAGE, IMAGE],
                "blocks_per_stage": list(BLOCKS),
                "embed_dim_per_stage": list(STAGES),
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 8, 4],
                "global_attention_blocks": [4, 7],
                "window_positional_embedding_background_size": [16, 16],
            },
            "backbone_channel_list": list(STAGES[::-1]),
            "backbone_feature_sizes": [[IMAGE // scale] * 2 for scale in (4, 8, 16)],
            "fpn_hidden_size": WIDTH,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 4 * WIDTH,
            "num_attention_heads": WIDTH // 32,
            "iou_head_hidden_dim": WIDTH,
        },
    )


@torch.no_grad()
def started(nano: SamModel, seed: int) -> Sam2Model:
    """A model with nano's blocks, prompt encoder and mask decoder; the rest of the encoder is random.

    Args:
        nano: the shipped model, a decoder of the same width.
        seed: of the encoder's weights.
    """
    torch.manual_seed(seed)
    model = Sam2Model._from_config(sam2_config(), attn_implementation="sdpa")
    _initialise_encoder(model)
    state = model.state_dict()
    taken = {
        new: value for name, value in nano.state_dict().items() for new in [_renamed(name)] if new in state
    }
    points = [nano.prompt_encoder.point_embed[kind].weight for kind in range(4)]
    taken["prompt_encoder.point_embed.weight"] = torch.cat(points)
    model.load_state_dict({**state, **taken})
    last = model.mask_decoder.iou_prediction_head.proj_out  # a sigmoid follows it here
    last.weight.mul_(_IOU_SLOPE)
    last.bias.sub_(0.5).mul_(_IOU_SLOPE)
    lowest, third = model.vision_encoder.neck.convs[:2]
    nn.init.zeros_(lowest.weight)  # nano has no fourth stage
    weight, bias = _straight_neck(nano)
    third.weight.copy_(weight[..., None, None])
    third.bias.copy_(bias)
    for level in (model.mask_decoder.conv_s0, model.mask_decoder.conv_s1):  # nano's masks at first
        nn.init.zeros_(level.weight)
        nn.init.zeros_(level.bias)
    nn.init.normal_(model.mask_decoder.obj_score_token.weight, std=0.1)
    return model


def _straight_neck(nano: SamModel, scenes: int = 12) -> tuple[Tensor, Tensor]:
    """The linear layer that comes closest to nano's neck, which normalises and looks at neighbours too."""
    found: list[Tensor] = []
    handle = nano.vision_encoder.layers[-1].register_forward_hook(lambda *given: found.append(given[-1]))
    images = (make_scene(np.random.default_rng([92, i])).image for i in range(scenes))
    pixels = torch.from_numpy(np.stack([normalised(image) for image in images])).permute(0, 3, 1, 2)
    wanted = nano.vision_encoder(pixels).last_hidden_state.permute(0, 2, 3, 1).flatten(0, 2)
    handle.remove()
    inputs = found[0].flatten(0, 2)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1).double()
    fitted = torch.linalg.lstsq(inputs, wanted.double()).solution.float()
    return fitted[:-1].T, fitted[-1]


def _renamed(name: str) -> str:
    """The parameter of SAM 2 that does what one of SAM's does; a name of nothing where there is none."""
    parts = name.split(".")
    pairs = {"out_proj": "o_proj"}
    if parts[:2] == ["vision_encoder", "layers"]:
        parts[1:3] = ["backbone", "blocks", str(FIRST_OF_NANO + int(parts[2]))]
    if "layers" in parts or "blocks" in parts:
        pairs |= {"lin1": "proj_in", "lin2": "proj_out"}
    return ".".join(pairs.get(part, part) for part in parts)


def _initialise_encoder(model: Sam2Model) -> None:
    encoder = model.vision_encoder
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan: Tensor = module.weight[0]
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan.numel()))
            nn.init.zeros_(module.bias)
    for block in encoder.backbone.blocks:
        block.attn.proj.weight.mul_(0.5)
        block.mlp.proj_out.weight.mul_(0.5)
    nn.init.normal_(encoder.backbone.pos_embed, std=0.1)
    nn.init.normal_(encoder.backbone.pos_embed_window, std=0.1)
