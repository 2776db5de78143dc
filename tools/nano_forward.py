"""The forward pass of training: SamModel's own weights, all four masks, image-side work shared by prompts.

``decode`` equals ``SamModel.forward`` (tests/tools compare them); it is channels-last, evaluates the
first layer's image-side projections once per image, and fuses projections that read the same tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel


def encode(model: SamModel, pixels: Tensor) -> Tensor:
    """(B, 3, 128, 128) -> (B, 256, C), tokens in row-major order."""
    return model.vision_encoder(pixels).last_hidden_state.flatten(2).transpose(1, 2)


def box_tokens(model: SamModel, boxes: Tensor) -> Tensor:
    """(B, K, 4) -> (B, K, 2, C)."""
    encoder = model.prompt_encoder
    corners = encoder.shared_embedding(
        boxes.reshape(*boxes.shape[:2], 2, 2) + 0.5, (encoder.input_image_size,) * 2
    )
    kinds = torch.cat([encoder.point_embed[2].weight, encoder.point_embed[3].weight])
    return corners + kinds


def click_tokens(
    model: SamModel, clicks: Tensor, foreground: Tensor | None = None, pad: bool = True
) -> Tensor:
    """(B, K, P, 2) -> (B, K, P + 1, C), or (B, K, P, C) without padding; ``foreground`` (B, K, P) bool."""
    encoder = model.prompt_encoder
    code = encoder.shared_embedding(clicks + 0.5, (encoder.input_image_size,) * 2)
    positive, negative = encoder.point_embed[1].weight[0], encoder.point_embed[0].weight[0]
    tokens = code + (
        positive if foreground is None else torch.where(foreground[..., None], positive, negative)
    )
    if not pad:
        return tokens
    empty = encoder.not_a_point_embed.weight[0].expand(*tokens.shape[:2], 1, -1)
    return torch.cat([tokens, empty], dim=2)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (N, Tq, I), k and v (N, Tk, I) -> (N, Tq, C)."""
    heads = module.num_attention_heads
    q, k, v = (_heads(x, heads) for x in (q, k, v))
    weights = torch.softmax(q @ (k.transpose(-1, -2) * module.scaling), dim=-1)
    output = module.out_proj if hasattr(module, "out_proj") else module.o_proj  # SAM, SAM 2
    return output((weights @ v).transpose(-2, -3).flatten(-2))


def _project_image(layer: nn.Module, keys: Tensor, code: Tensor) -> tuple[Tensor, ...]:
    """Keys and values for the tokens, queries of the image, from one product: each (..., 256, I)."""
    t2i, i2t = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    parts = (t2i.k_proj, i2t.q_proj)
    placed = torch.cat([p.weight for p in parts])
    offset = F.linear(code, placed, torch.cat([p.bias for p in parts]))
    offset = torch.cat([offset, t2i.v_proj.bias.expand(len(code), -1)], dim=-1)
    fused = F.linear(keys, torch.cat([placed, t2i.v_proj.weight])) + offset
    return fused.split(t2i.internal_dim, dim=-1)


def _layer(
    layer: nn.Module, tokens: Tensor, first: Tensor, keys: Tensor, code: Tensor
) -> tuple[Tensor, Tensor]:
    """tokens, first (B, K, T, C); keys (B or B*K, 256, C) -> tokens, keys (B*K, 256, C)."""
    batch, prompts, count, width = tokens.shape
    shape = (batch * prompts, count, width)
    attention = layer.self_attn
    flat = tokens.reshape(shape)
    place = first.reshape(shape)
    mixed = flat if layer.skip_first_layer_pe else flat + place
    new = _attend(attention, attention.q_proj(mixed), attention.k_proj(mixed), attention.v_proj(flat))
    flat = layer.layer_norm1(new if layer.skip_first_layer_pe else flat + new)
    attention = layer.cross_attn_token_to_image
    k, image_q, v = _project_image(layer, keys, code)
    q = attention.q_proj(flat + place).reshape(len(keys), -1, attention.internal_dim)
    flat = layer.layer_norm2(flat + _attend(attention, q, k, v).reshape(shape))
    flat = layer.layer_norm3(flat + layer.mlp(flat))
    attention = layer.cross_attn_image_to_token
    k, v = attention.k_proj(flat + place), attention.v_proj(flat)
    if len(keys) != len(flat):
        image_q = image_q.repeat_interleave(prompts, 0)
        keys = keys.repeat_interleave(prompts, 0)
    keys = layer.layer_norm4(keys + _attend(attention, image_q, k, v))
    return flat.reshape(batch, prompts, count, width), keys


def decode(
    model: SamModel, image: Tensor, sparse: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Decode all four mask tokens.

    Args:
        image: (B, 256, C) from ``encode``.
        sparse: (B, K, T, C) prompt tokens.
        masks: (B, K, 64, 64) low-resolution logits given as prompt, or None.

    Returns:
        logits (B, K, 4, 64, 64) and predicted IoU (B, K, 4); index 0 is the single mask.
    """
    decoder = model.mask_decoder
    batch, prompts = sparse.shape[:2]
    side = int(image.shape[1] ** 0.5)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(batch, prompts, -1, -1)
    first = torch.cat([own, sparse], dim=2)
    if masks is None:
        keys = image + model.prompt_encoder.no_mask_embed.weight
    else:
        dense = model.prompt_encoder.mask_embed(masks.flatten(0, 1)[:, None]).flatten(2).transpose(1, 2)
        keys = image.repeat_interleave(prompts, 0) + dense
    code = model.get_image_wide_positional_embeddings()[0].flatten(1).T
    tokens = first
    for layer in decoder.transformer.layers:
        tokens, keys = _layer(layer, tokens, first, keys, code)
    last = decoder.transformer.final_attn_token_to_image
    flat, place = tokens.flatten(0, 1), first.flatten(0, 1)
    k, v = last.k_proj(keys + code), last.v_proj(keys)
    new = _attend(last, last.q_proj(flat + place), k, v)
    flat = decoder.transformer.layer_norm_final_attn(flat + new)
    iou = decoder.iou_prediction_head(flat[:, 0])
    hyper = torch.stack(
        [mlp(flat[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=2
    )
    up = _upscaled(decoder, keys)
    logits = torch.bmm(up.flatten(1, 3), hyper)  # (B*K, 256 * 16, 4)
    logits = logits.reshape(batch, prompts, side, side, 2, 2, 2, 2, -1)
    logits = logits.permute(0, 1, 8, 2, 4, 6, 3, 5, 7).reshape(batch, prompts, -1, 4 * side, 4 * side)
    return logits, iou.reshape(batch, prompts, -1)


def _upscaled(decoder: nn.Module, keys: Tensor) -> Tensor:
    """(N, 256, C) -> (N, 256, 4, 4, C / 8): the two transposed convolutions as products; sub-pixels last."""
    one, two = decoder.upscale_conv1, decoder.upscale_conv2
    weight = one.weight.permute(2, 3, 1, 0).flatten(0, 2)
    x = F.linear(keys, weight, one.bias.repeat(4)).unflatten(-1, (4, -1))
    norm = decoder.upscale_layer_norm
    x = F.gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    weight = two.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.gelu(F.linear(x, weight, two.bias.repeat(4))).unflatten(-1, (4, -1))
