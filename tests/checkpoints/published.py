"""A SAM written down from the paper, reading tensors by their official names.

The functions below know the official names and the architecture, and nothing of ``transformers`` or of
saqsam's rules. The model is a tiny one: its sizes are the constants here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.prompts.prompts import Prompts

ENCODER_HEADS, DECODER_HEADS, WINDOW, GLOBAL = 3, 2, 3, (1, 3)
SIDE, GRID = 64, 8


class Official:
    """Tensors by official name, with the handful of layers that SAM is made of."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def norm_channels(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x.movedim(1, -1), 1e-6).movedim(-1, 1)

    def conv(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **how)

    def up(self, name: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        for layer in range(3):
            x = self.linear(f"{name}.layers.{layer}", x)
            x = x.relu() if layer < 2 else x
        return x

    def positions(self, xy: Tensor) -> Tensor:
        """(..., 2) in 0..1 -> (..., C)."""
        matrix = self.state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        angles = 2 * math.pi * ((2 * xy - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], -1)


def image_encoder(sam: Official, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The embedding, and the tokens after each block with global attention."""
    after_global = []
    x = sam.conv("image_encoder.patch_embed.proj", pixels, stride=SIDE // GRID).movedim(1, -1)
    x = x + sam.state["image_encoder.pos_embed"]
    for block in range(4):
        name = f"image_encoder.blocks.{block}"
        y = sam.norm(f"{name}.norm1", x, 1e-6)
        side = GRID if block in GLOBAL else WINDOW
        padded = math.ceil(GRID / side) * side
        y = F.pad(y, (0, 0, 0, padded - GRID, 0, padded - GRID))
        out = torch.zeros_like(y)
        for top in range(0, padded, side):
            for left in range(0, padded, side):
                window = (slice(None), slice(top, top + side), slice(left, left + side))
                out[window] = encoder_attention(sam, f"{name}.attn", y[window])
        x = x + out[:, :GRID, :GRID]
        y = sam.norm(f"{name}.norm2", x, 1e-6)
        x = x + sam.linear(f"{name}.mlp.lin2", F.gelu(sam.linear(f"{name}.mlp.lin1", y)))
        if block in GLOBAL:
            after_global.append(x)
    x = sam.norm_channels("image_encoder.neck.1", sam.conv("image_encoder.neck.0", x.movedim(-1, 1)))
    x = sam.norm_channels("image_encoder.neck.3", sam.conv("image_encoder.neck.2", x, padding=1))
    return x, after_global


def encoder_attention(sam: Official, name: str, x: Tensor) -> Tensor:
    """(1, s, s, D): relative positions are added pair by pair, as the paper defines them."""
    side, width = x.shape[1], x.shape[3]
    q, k, v = sam.linear(f"{name}.qkv", x.reshape(side * side, width)).split(width, -1)
    rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
    tall = sam.state[f"{name}.rel_pos_h"][rows[:, None] - rows[None] + side - 1]
    wide = sam.state[f"{name}.rel_pos_w"][columns[:, None] - columns[None] + side - 1]
    heads = []
    for qh, kh, vh in zip(*(t.chunk(ENCODER_HEADS, -1) for t in (q, k, v)), strict=True):
        scores = qh @ kh.T / math.sqrt(qh.shape[-1])
        scores = scores + torch.einsum("qc,qkc->qk", qh, tall) + torch.einsum("qc,qkc->qk", qh, wide)
        heads.append(scores.softmax(-1) @ vh)
    return sam.linear(f"{name}.proj", torch.cat(heads, -1)).reshape(x.shape)


def decoder_attention(sam: Official, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (sam.linear(f"{name}.{which}_proj", x) for which, x in (("q", q), ("k", k), ("v", v)))
    heads = [
        (qh @ kh.T / math.sqrt(qh.shape[-1])).softmax(-1) @ vh
        for qh, kh, vh in zip(*(t.chunk(DECODER_HEADS, -1) for t in (q, k, v)), strict=True)
    ]
    return sam.linear(f"{name}.out_proj", torch.cat(heads, -1))


def sparse_prompt(sam: Official, prompts: Prompts, row: int) -> Tensor:
    def code(xy: Tensor) -> Tensor:
        return sam.positions((xy + 0.5) / SIDE)

    tokens = []
    if prompts.points is not None and prompts.labels is not None:
        for xy, label in zip(prompts.points[row], prompts.labels[row], strict=True):
            tokens.append(code(xy) + sam.state[f"prompt_encoder.point_embeddings.{int(label)}.weight"][0])
        if prompts.boxes is None:
            tokens.append(sam.state["prompt_encoder.not_a_point_embed.weight"][0])
    if prompts.boxes is not None:
        for corner, xy in enumerate(prompts.boxes[row].reshape(2, 2)):
            tokens.append(code(xy) + sam.state[f"prompt_encoder.point_embeddings.{2 + corner}.weight"][0])
    return torch.stack(tokens)


def dense_prompt(sam: Official, prompts: Prompts, row: int) -> Tensor:
    if prompts.masks is None:
        return sam.state["prompt_encoder.no_mask_embed.weight"].reshape(1, -1, 1, 1)
    name = "prompt_encoder.mask_downscaling"
    x = sam.conv(f"{name}.0", prompts.masks[row : row + 1], stride=2)
    x = F.gelu(sam.norm_channels(f"{name}.1", x))
    x = F.gelu(sam.norm_channels(f"{name}.4", sam.conv(f"{name}.3", x, stride=2)))
    return sam.conv(f"{name}.6", x)


def image_and_positions(
    sam: Official, embedding: Tensor, prompts: Prompts, row: int
) -> tuple[Tensor, Tensor]:
    """What the two-way transformer takes of the image, ``(N, C)``, and where its positions are."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    image = (embedding + dense_prompt(sam, prompts, row)).flatten(2)[0].T
    return image, sam.positions(grid).reshape(GRID * GRID, -1)


def two_way(sam: Official, tokens: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
    """The transformer: tokens ``(T, C)`` and image ``(N, C)`` that have met."""
    name, x = "mask_decoder.transformer", tokens
    for layer in range(2):
        block = f"{name}.layers.{layer}"
        q = x if layer == 0 else x + tokens
        attended = decoder_attention(sam, f"{block}.self_attn", q, q, x)
        x = sam.norm(f"{block}.norm1", attended if layer == 0 else x + attended, 1e-5)
        attended = decoder_attention(
            sam, f"{block}.cross_attn_token_to_image", x + tokens, image + image_pe, image
        )
        x = sam.norm(f"{block}.norm2", x + attended, 1e-5)
        hidden = sam.linear(f"{block}.mlp.lin1", x).relu()
        x = sam.norm(f"{block}.norm3", x + sam.linear(f"{block}.mlp.lin2", hidden), 1e-5)
        attended = decoder_attention(
            sam, f"{block}.cross_attn_image_to_token", image + image_pe, x + tokens, x
        )
        image = sam.norm(f"{block}.norm4", image + attended, 1e-5)
    attended = decoder_attention(
        sam, f"{name}.final_attn_token_to_image", x + tokens, image + image_pe, image
    )
    return sam.norm(f"{name}.norm_final_attn", x + attended, 1e-5), image


def upscaled(sam: Official, image: Tensor) -> Tensor:
    """``(N, C)`` to ``(1, C / 8, 4g, 4g)``."""
    large = image.T.reshape(1, -1, GRID, GRID)
    up = "mask_decoder.output_upscaling"
    large = F.gelu(sam.norm_channels(f"{up}.1", sam.up(f"{up}.0", large)))
    return F.gelu(sam.up(f"{up}.3", large))


def mask_decoder(sam: Official, embedding: Tensor, prompts: Prompts, row: int) -> tuple[Tensor, Tensor]:
    """All four mask logits (4, 4g, 4g) and predicted IoUs (4,) of one prompt."""
    own = [sam.state["mask_decoder.iou_token.weight"], sam.state["mask_decoder.mask_tokens.weight"]]
    tokens = torch.cat([*own, sparse_prompt(sam, prompts, row)])
    x, image = two_way(sam, tokens, *image_and_positions(sam, embedding, prompts, row))
    weights = [sam.mlp(f"mask_decoder.output_hypernetworks_mlps.{i}", x[1 + i]) for i in range(4)]
    logits = torch.einsum("mc,chw->mhw", torch.stack(weights), upscaled(sam, image)[0])
    return logits, sam.mlp("mask_decoder.iou_prediction_head", x[0])


def some_prompts(kind: str) -> Prompts:
    random = torch.Generator().manual_seed(5)
    corners = torch.rand((3, 2, 2), generator=random) * 60
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 3], 1)
    points = torch.rand((3, 2, 2), generator=random) * 64
    labels = torch.tensor([[1, 0], [1, 1], [0, 1]])
    masks = torch.randn((3, 1, 4 * GRID, 4 * GRID), generator=random)
    return {
        "boxes": Prompts(boxes=boxes),
        "points": Prompts(points=points, labels=labels),
        "boxes and points": Prompts(boxes, points, labels),
        "boxes and masks": Prompts(boxes=boxes, masks=masks),
        "points and masks": Prompts(points=points, labels=labels, masks=masks),
    }[kind]
