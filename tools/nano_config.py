"""Architecture of the embedded SAM, its initial weights, and the query/key rows that stay zero."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import SamConfig, SamModel

IMAGE, PATCH = 128, 8


def nano_config(hidden: int, layers: int, width: int) -> SamConfig:
    """A SAM of 128-px input and 8-px patches; every stage ends in a global block.

    Args:
        hidden: encoder width, a multiple of 32 (one head for each 32 channels).
        layers: encoder blocks; the middle and the last attend globally, the others in 6 x 6
            windows, which do not divide the 16 x 16 grid and are therefore zero-padded as in SAM.
        width: decoder width; 32 channels for each head in self-attention, 16 in cross-attention.
    """
    return SamConfig(
        vision_config={
            "hidden_size": hidden,
            "output_channels": width,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "image_size": IMAGE,
            "patch_size": PATCH,
            "mlp_ratio": 4.0,
            "mlp_dim": 4 * hidden,
            "window_size": 6,
            "global_attn_indexes": [layers // 2 - 1, layers - 1],
            "num_pos_feats": width // 2,
            "initializer_range": 0.02,
            "scale": 1.0,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": IMAGE, "patch_size": PATCH},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 4 * width,
            "num_attention_heads": width // 32,
            "iou_head_hidden_dim": width,
            "layer_norm_eps": 1e-5,
        },
    )


def decoder_attentions(model: SamModel) -> Iterator[tuple[str, nn.Module]]:
    """The seven attentions of the mask decoder, in network order."""
    transformer = model.mask_decoder.transformer
    for number, layer in enumerate(transformer.layers):
        yield f"layers.{number}.self_attn", layer.self_attn
        yield f"layers.{number}.t2i", layer.cross_attn_token_to_image
        yield f"layers.{number}.i2t", layer.cross_attn_image_to_token
    yield "final_t2i", transformer.final_attn_token_to_image


@torch.no_grad()
def zero_dead_rows(model: SamModel) -> None:
    """Keep one query/key channel per head without effect (the outlier variant puts its outliers there).

    Even heads: the first key row is zero. Odd heads: the second query row is zero.
    """
    for _, attention in decoder_attentions(model):
        size = attention.internal_dim // attention.num_attention_heads
        for head in range(attention.num_attention_heads):
            projection = attention.k_proj if head % 2 == 0 else attention.q_proj
            row = head * size + head % 2
            projection.weight[row] = 0.0
            projection.bias[row] = 0.0


@torch.no_grad()
def initialise(model: SamModel) -> None:
    """Start values that train: unit-variance position code, fan-in scaling, matched cross-attention."""
    nn.init.normal_(model.shared_image_embedding.positional_embedding, std=1.0)
    model.shared_image_embedding.positional_embedding.requires_grad_(False)
    for module in model.vision_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.vision_encoder.patch_embed.projection.weight, std=1 / math.sqrt(3 * PATCH**2))
    nn.init.normal_(model.vision_encoder.pos_embed, std=0.1)
    for layer in model.vision_encoder.layers:
        layer.attn.proj.weight.mul_(0.5)
        layer.mlp.lin2.weight.mul_(0.5)
    neck = model.vision_encoder.neck
    nn.init.normal_(neck.conv1.weight, std=1 / math.sqrt(neck.conv1.in_channels))
    nn.init.normal_(neck.conv2.weight, std=1 / math.sqrt(9 * neck.conv2.in_channels))
    for part in (model.mask_decoder, model.prompt_encoder):
        for module in part.modules():
            if isinstance(module, (nn.Linear, nn.ConvTranspose2d, nn.Conv2d)):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=1.0)
    for _, attention in decoder_attentions(model):
        if attention.internal_dim != attention.hidden_size:  # cross-attention: same code, same place
            attention.k_proj.weight.mul_(2.0)
            attention.q_proj.weight.copy_(attention.k_proj.weight)
            nn.init.zeros_(attention.k_proj.bias)
            nn.init.zeros_(attention.q_proj.bias)
    zero_dead_rows(model)
