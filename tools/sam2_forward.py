"""The forward pass of training ``nano-sam2``: Sam2Model's own weights, all four masks.

Equal to ``Sam2Model.forward`` (tests/tools compare them).  Tokens are in Z-order: the four of a 2 x 2 square
follow each other, at every scale.  So windows are runs of tokens, pooling takes four neighbours, and a coarse
token's finer ones are its sub-pixels while upscaling: nothing is ever moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from nano_forward import _attend, _layer
from torch import Tensor, nn
from transformers import Sam2Model


class Levels(NamedTuple):
    """What the encoder makes of B images, in Z-order."""

    main: Tensor  # (B, N, C)
    middle: Tensor  # (B, 4 N, C / 4)
    fine: Tensor  # (B, 16 N, C / 8)


def z_order(side: int) -> Tensor:
    """(side * side,) int64: the row-major number of each token; ``side`` is a power of two."""
    number = torch.arange(side * side)
    row, column = torch.zeros_like(number), torch.zeros_like(number)
    for bit in range(side.bit_length() - 1):
        column |= (number >> 2 * bit & 1) << bit
        row |= (number >> 2 * bit + 1 & 1) << bit
    return row * side + column


def rows_first(x: Tensor) -> Tensor:
    """(..., N, C) in Z-order to row-major order."""
    return x[..., torch.argsort(z_order(int(x.shape[-2] ** 0.5))), :]


class _Maximum(torch.autograd.Function):
    """Maximum of every four tokens; several times as fast as what torch has for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(..., 4 N, C) -> (..., N, C)."""
        four = x.unflatten(-2, (-1, 4))
        top = four.amax(-2, keepdim=True)
        ctx.save_for_backward(four == top)
        return top.squeeze(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """To every token that reaches the maximum."""
        (reached,) = ctx.saved_tensors
        return (reached * gradient.unsqueeze(-2)).flatten(-3, -2)


def _block(block: nn.Module, x: Tensor) -> Tensor:
    """(B, N, C) -> the same, or (B, N / 4, C') where a stage begins."""
    batch, count, _ = x.shape
    attention, normed = block.attn, block.layer_norm1(x)
    window = block.window_size**2 or count
    qkv = attention.qkv(normed).unflatten(-1, (3, -1)).reshape(batch * count // window, window, 3, -1)
    query, key, value = qkv.unbind(2)
    if block.query_stride:
        query, x = _Maximum.apply(query), _Maximum.apply(block.proj(normed))
    heads = attention.num_attention_heads
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    weights = torch.softmax((q * attention.scale) @ k.transpose(-1, -2), dim=-1)
    x = x + attention.proj((weights @ v).transpose(1, 2).reshape(batch, -1, query.shape[-1]))
    return x + block.mlp(block.layer_norm2(x))


def _pointwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    return F.linear(x, convolution.weight.flatten(1), convolution.bias)


def early(model: Sam2Model, pixels: Tensor) -> list[Tensor]:
    """(B, 3, S, S) pixels -> outputs of the first two stages and of the block that begins the third."""
    backbone = model.vision_encoder.backbone
    x = backbone.patch_embed(pixels)
    x = (x + backbone._get_pos_embed(x.shape[1:3])).flatten(1, 2)
    found = [x[:, z_order(pixels.shape[-1] // 4)]]
    fine, middle = (end + 1 for end in backbone.stage_ends[:2])
    for blocks in (
        backbone.blocks[:fine],
        backbone.blocks[fine:middle],
        backbone.blocks[middle : middle + 1],
    ):
        x = found[-1]
        for block in blocks:
            x = _block(block, x)
        found.append(x)
    return found[1:]


def encode(model: Sam2Model, stages: list[Tensor]) -> Levels:
    """From what ``early`` gives to the levels that the decoder reads."""
    backbone, convolutions = model.vision_encoder.backbone, model.vision_encoder.neck.convs
    fine, middle, x = stages
    coarse = x
    for index in range(backbone.stage_ends[1] + 2, len(backbone.blocks)):
        x = _block(backbone.blocks[index], x)
        if index == backbone.stage_ends[2]:
            coarse = x
    above = _pointwise(convolutions[0], x).repeat_interleave(4, 1)
    decoder = model.mask_decoder
    return Levels(
        _pointwise(convolutions[1], coarse) + above + model.no_memory_embedding,
        _pointwise(decoder.conv_s1, _pointwise(convolutions[2], middle)),
        _pointwise(decoder.conv_s0, _pointwise(convolutions[3], fine)),
    )


def box_tokens(model: Sam2Model, boxes: Tensor) -> Tensor:
    """(B, K, 4) pixels -> (B, K, 3, C): two corners, and that no click follows."""
    encoder = model.prompt_encoder
    corners = _code(model, boxes.unflatten(-1, (2, 2))) + encoder.point_embed.weight[2:]
    return torch.cat([corners, _none(encoder, boxes)], dim=2)


def click_tokens(
    model: Sam2Model, clicks: Tensor, foreground: Tensor | None = None, pad: bool = True
) -> Tensor:
    """(B, K, P, 2) -> (B, K, P + 1, C), or (B, K, P, C) without padding; ``foreground`` (B, K, P) bool."""
    encoder = model.prompt_encoder
    kinds = encoder.point_embed.weight[:2]
    kind = kinds[1] if foreground is None else kinds[foreground.long()]
    tokens = _code(model, clicks) + kind
    return torch.cat([tokens, _none(encoder, clicks)], dim=2) if pad else tokens


def _code(model: Sam2Model, points: Tensor) -> Tensor:
    """The position code, always computed in float32."""
    encoder = model.prompt_encoder
    code = encoder.shared_embedding(points + 0.5, (encoder.input_image_size,) * 2)
    return code.to(encoder.point_embed.weight.dtype)


def _none(encoder: nn.Module, like: Tensor) -> Tensor:
    return encoder.not_a_point_embed.weight[0].expand(*like.shape[:2], 1, -1)


def decode(
    model: Sam2Model, image: Levels, sparse: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode all four mask tokens.

    Args:
        image: from ``encode``.
        sparse: (B, K, T, C) prompt tokens.
        masks: (B, K, 4 g, 4 g) low-resolution logits given as prompt, or None.

    Returns:
        logits (B, K, 4, 4 g, 4 g), predicted IoU (B, K, 4), object score (B, K); index 0 is the single mask.
    """
    decoder, prompter = model.mask_decoder, model.prompt_encoder
    batch, prompts = sparse.shape[:2]
    side = int(image.main.shape[1] ** 0.5)
    order = z_order(side)
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    first = torch.cat([own.expand(batch, prompts, -1, -1), sparse], dim=2)
    if masks is None:
        keys = image.main + prompter.no_mask_embed.weight
    else:
        dense = prompter.mask_embed(masks.flatten(0, 1)[:, None]).flatten(2).transpose(1, 2)
        keys = image.main.repeat_interleave(prompts, 0) + dense[:, order]
    code = model.get_image_wide_positional_embeddings()[0].flatten(1).T[order].to(keys.dtype)
    tokens = first
    for layer in decoder.transformer.layers:
        tokens, keys = _layer(layer, tokens, first, keys, code)
    last = decoder.transformer.final_attn_token_to_image
    flat, place = tokens.flatten(0, 1), first.flatten(0, 1)
    k, v = last.k_proj(keys + code), last.v_proj(keys)
    flat = decoder.transformer.layer_norm_final_attn(flat + _attend(last, last.q_proj(flat + place), k, v))
    networks = decoder.output_hypernetworks_mlps
    hyper = torch.stack([mlp(flat[:, 2 + i]) for i, mlp in enumerate(networks)], dim=2)
    logits = torch.bmm(_upscaled(decoder, keys, image, prompts), hyper)  # (B*K, 16 N, 4)
    logits = rows_first(logits).transpose(1, 2)
    iou, score = decoder.iou_prediction_head(flat[:, 1]), decoder.pred_obj_score_head(flat[:, 0])
    return (
        logits.reshape(batch, prompts, -1, 4 * side, 4 * side),
        iou.reshape(batch, prompts, -1),
        score.reshape(batch, prompts),
    )


def _upscaled(decoder: nn.Module, keys: Tensor, image: Levels, prompts: int) -> Tensor:
    """(B*K, N, C) -> (B*K, 16 N, C / 8): the two transposed convolutions as products, finer levels added."""
    one, two, norm = decoder.upscale_conv1, decoder.upscale_conv2, decoder.upscale_layer_norm
    middle, fine = (x.repeat_interleave(prompts, 0) for x in image[1:])
    weight = one.weight.permute(2, 3, 1, 0).flatten(0, 2)
    x = F.linear(keys, weight, one.bias.repeat(4)).reshape(middle.shape) + middle
    x = F.gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    weight = two.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.gelu(F.linear(x, weight, two.bias.repeat(4)).reshape(fine.shape) + fine)
