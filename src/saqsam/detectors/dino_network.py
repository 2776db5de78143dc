"""DINO (Zhang et al., "DETR with Improved DeNoising Anchor Boxes", 2022) on five levels, at inference.

Encoder and decoder layers are ``transformers``'s Deformable DETR; what differs from that model is written
here: positions with temperature 20, proposals by their best class, query positions recomputed from the boxes
before each layer, one head shared by all layers, and the order of the last refinement.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saqsam.detectors.focalnet import FocalNetMaps

POSITION_TEMPERATURE = 20.0
BOX_TEMPERATURE = 10_000.0
EPSILON = 1e-3  # of the inverse sigmoid; Deformable DETR has 1e-5
LEAST, MOST = 0.01, 0.99  # proposals whose sides leave this range are void
SMALLEST = 0.05  # side of the finest level's proposals, relative to the image


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(first, second) for first, second in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            x = functional.relu(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


class Dino(nn.Module):
    """The network: ``(1, 3, h, w)`` normalised RGB to ``(Q, 91)`` logits and ``(Q, 4)`` relative boxes.

    Args:
        config: a ``DeformableDetrConfig``; ``num_queries``, ``num_feature_levels`` and sizes of layers.
        backbone: a ``FocalNetConfig``.
    """

    def __init__(self, config: Any, backbone: Any) -> None:
        from transformers.models.deformable_detr.modeling_deformable_detr import (
            DeformableDetrDecoderLayer,
            DeformableDetrEncoder,
        )

        super().__init__()
        width, classes = config.d_model, config.num_labels
        self.backbone = FocalNetMaps(backbone)
        self.input_proj = _projections(self.backbone.channels, config.num_feature_levels, width)
        self.level_embed = nn.Parameter(torch.zeros(config.num_feature_levels, width))
        self.encoder = DeformableDetrEncoder(config)
        self.enc_output, self.enc_output_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.enc_out_class_embed = nn.Linear(width, classes)
        self.enc_out_bbox_embed = Mlp(width, width, 4, 3)
        self.tgt_embed = nn.Embedding(config.num_queries, width)
        self.layers = nn.ModuleList(DeformableDetrDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.ref_point_head = Mlp(2 * width, width, width, 2)
        self.class_embed = nn.Linear(width, classes)
        self.bbox_embed = Mlp(width, width, 4, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        sources = self._sources(image)
        sizes = [(int(one.shape[2]), int(one.shape[3])) for one in sources]
        width = self.level_embed.shape[1]
        positions = [
            _flat(grid_position(*size, width, image)) + level
            for size, level in zip(sizes, self.level_embed, strict=True)
        ]
        shapes = torch.tensor(sizes, device=image.device)
        whole = image.new_ones((1, len(sizes), 2))  # nothing is padded
        mask = torch.ones((1, int(shapes.prod(1).sum())), dtype=torch.bool, device=image.device)
        memory = self.encoder(
            inputs_embeds=torch.cat([_flat(one) for one in sources], 1),
            attention_mask=mask,
            spatial_position_embeddings=torch.cat(positions, 1),
            spatial_shapes=shapes,
            spatial_shapes_list=sizes,
            level_start_index=shapes.prod(1).cumsum(0) - shapes.prod(1),
            valid_ratios=whole,
        ).last_hidden_state
        boxes = self._proposals(memory, sizes)
        return self._decode(memory, boxes, shapes, sizes, mask)

    def _sources(self, image: Tensor) -> list[Tensor]:
        """Maps of all levels in the transformer's width; levels past the backbone halve the last one."""
        maps = self.backbone(image)
        sources = [project(one) for project, one in zip(self.input_proj, maps, strict=False)]
        last = maps[-1]
        for project in list(self.input_proj)[len(maps) :]:
            last = project(last)
            sources.append(last)
        return sources

    def _proposals(self, memory: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """``(1, Q, 4)`` boxes, before the sigmoid, of the encoder cells with the best class logits."""
        grid, valid = proposal_grid(sizes, memory)
        cells = self.enc_output_norm(self.enc_output(memory.masked_fill(~valid[:, None], 0.0)))
        best = self.enc_out_class_embed(cells).amax(-1)[0].topk(len(self.tgt_embed.weight)).indices
        found: Tensor = (self.enc_out_bbox_embed(cells) + grid)[:, best]
        return found

    def _decode(
        self,
        memory: Tensor,
        boxes: Tensor,
        shapes: Tensor,
        sizes: list[tuple[int, int]],
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x = self.tgt_embed.weight[None]
        reference = before = boxes.sigmoid()
        for layer in self.layers:
            before = reference
            x = layer(
                x,
                object_queries_position_embeddings=self.ref_point_head(
                    box_position(before, x.shape[-1] // 2)
                ),
                reference_points=before[:, :, None].expand(-1, -1, len(sizes), -1),
                spatial_shapes=shapes,
                spatial_shapes_list=sizes,
                encoder_hidden_states=memory,
                encoder_attention_mask=mask,
            )
            # The next layer's boxes come from the layer's output as it is, the answer from its norm.
            reference = (self.bbox_embed(x) + inverse_sigmoid(before)).sigmoid()
        x = self.norm(x)
        answer = (self.bbox_embed(x) + inverse_sigmoid(before)).sigmoid()
        return self.class_embed(x)[0], answer[0]


def _projections(channels: tuple[int, ...], levels: int, width: int) -> nn.ModuleList:
    narrow = [nn.Conv2d(count, width, 1) for count in channels]
    halving = [
        nn.Conv2d(channels[-1] if extra == 0 else width, width, 3, stride=2, padding=1)
        for extra in range(levels - len(channels))
    ]
    return nn.ModuleList(nn.Sequential(one, nn.GroupNorm(32, width)) for one in (*narrow, *halving))


def _flat(x: Tensor) -> Tensor:
    """``(1, C, h, w)`` to ``(1, h w, C)``."""
    return x.flatten(2).transpose(1, 2)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logits of relative coordinates, kept finite by ``EPSILON``."""
    x = x.clamp(0, 1)
    return (x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON)).log()


def waves(x: Tensor, count: int, temperature: float) -> Tensor:
    """Sine and cosine in turn, ``(...)`` to ``(..., count)``; frequencies fall from 1 to 1 / temperature."""
    steps = torch.arange(count // 2, dtype=torch.float32, device=x.device)
    angles = x[..., None] / temperature ** (2 * steps / count)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def grid_position(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """``(1, channels, height, width)``: rows in the first half, columns in the second."""
    turn = 2 * math.pi
    rows = torch.arange(1, height + 1, device=like.device, dtype=like.dtype) / (height + 1e-6) * turn
    columns = torch.arange(1, width + 1, device=like.device, dtype=like.dtype) / (width + 1e-6) * turn
    half = channels // 2
    down = waves(rows, half, POSITION_TEMPERATURE)[:, None].expand(-1, width, -1)
    across = waves(columns, half, POSITION_TEMPERATURE)[None].expand(height, -1, -1)
    return torch.cat([down, across], dim=-1).permute(2, 0, 1)[None]


def box_position(boxes: Tensor, count: int) -> Tensor:
    """``(1, Q, 4)`` relative boxes to ``(1, Q, 4 count)``, in the order y, x, width, height."""
    x, y, width, height = boxes.unbind(-1)
    return torch.cat([waves(one * 2 * math.pi, count, BOX_TEMPERATURE) for one in (y, x, width, height)], -1)


def proposal_grid(sizes: list[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """A box around each cell of each level, before the sigmoid.

    Returns:
        ``(N, 4)``, infinite where void, and ``(N,)`` bool: not void.
    """
    boxes = []
    for level, (height, width) in enumerate(sizes):
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        side = torch.full_like(rows, SMALLEST * 2.0**level)
        boxes.append(torch.stack([columns, rows, side, side], dim=-1).reshape(-1, 4))
    grid = torch.cat(boxes)
    valid = ((grid > LEAST) & (grid < MOST)).all(1)
    logits = (grid / (1 - grid)).log()
    return logits.masked_fill(~valid[:, None], math.inf), valid
