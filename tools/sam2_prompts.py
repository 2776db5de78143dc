"""What is asked of ``nano-sam2`` in one training step, and the loss of the answers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from nano_data import Batch
from nano_loss import auxiliary_loss, prompt_loss
from sam2_forward import Levels, box_tokens, click_tokens, decode, early, encode, rows_first
from torch import Tensor, nn
from train_nano import correction_click
from transformers import Sam2Model, SamModel

SCALE = 2
"""Samples have 128 px a side, the model has 256."""


def enlarged(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 3, 128, 128) float32 -> (B, 3, 256, 256)."""
    return F.interpolate(pixels, scale_factor=SCALE, mode="bilinear").to(dtype)


def prompt_tokens(model: Sam2Model, batch: Batch, kind: int, rng: np.random.Generator) -> list[Tensor]:
    """Sparse tokens (B, K / 2, T, C) of the first and of the second half of the prompts.

    kind 0: boxes and single clicks. kind 1: box with click, and click with a background click.
    """
    half = batch.boxes.shape[1] // 2
    boxes = box_tokens(model, batch.boxes[:, :half] * SCALE)
    clicks = batch.clicks[:, :, None] * SCALE
    if kind == 0:
        return [boxes, click_tokens(model, clicks[:, half:])]
    both = torch.cat([click_tokens(model, clicks[:, :half], pad=False), boxes], 2)
    outside, inside = correction_click(rng, torch.full_like(batch.targets, 9.0), batch.targets)
    pair = torch.cat([clicks, outside * SCALE], dim=2)[:, half:]
    foreground = torch.cat([torch.ones_like(inside), inside], dim=2)[:, half:]
    return [both, click_tokens(model, pair, foreground)]


def answers(
    model: Sam2Model, image: Levels, asked: list[Tensor], masks: Tensor | None = None
) -> tuple[Tensor, ...]:
    """What ``decode`` gives for groups of prompts of different lengths, in float32, side by side."""
    sizes = [sparse.shape[1] for sparse in asked]
    given = [None] * len(asked) if masks is None else masks.split(sizes, dim=1)
    found = [decode(model, image, *group) for group in zip(asked, given, strict=True)]
    return tuple(torch.cat(parts, dim=1).float() for parts in zip(*found, strict=True))


def nothing_there(model: Sam2Model, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A click on the background of each image, (B, 1, 2, C) and 1 where it has any background (B, 1)."""
    empty = (labels == 0).flatten(1)
    noise = torch.from_numpy(rng.random(tuple(empty.shape), dtype=np.float32))
    place = (noise * empty).argmax(-1)
    side = labels.shape[-1]
    click = torch.stack([place % side, place // side], dim=-1)[:, None, None].float() * SCALE
    return click_tokens(model, click), empty.any(-1, keepdim=True).float()


def apart(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Mean square of the difference, in units of the spread of what is wanted; (B, N, C), in Z-order."""
    return (rows_first(tokens.float()) - wanted.float()).square().mean() / wanted.float().var()


@torch.no_grad()
def patches_of(nano: SamModel, pixels: Tensor) -> Tensor:
    """What enters nano's first block: (B, N, C) in row-major order."""
    encoder = nano.vision_encoder
    return (encoder.patch_embed(pixels) + encoder.pos_embed).flatten(1, 2)


@torch.no_grad()
def embedding_of(nano: SamModel, pixels: Tensor) -> Tensor:
    """nano's image embedding: (B, N, C) in row-major order."""
    return nano.vision_encoder(pixels).last_hidden_state.flatten(2).transpose(1, 2)


def step_loss(
    model: Sam2Model,
    head: nn.Module,
    nano: SamModel,
    batch: Batch,
    step: int,
    rng: np.random.Generator,
    teaching: float,
    prompted: bool,
) -> tuple[Tensor, list[float]]:
    """Loss of one step, and: distance from nano's patches and embedding, mean IoU of boxes and of clicks.

    Args:
        teaching: weight of the distances from nano; 0 leaves nano out.
        prompted: false in the first steps, which train the first stages alone.
    """
    dtype = model.no_memory_embedding.dtype
    stages = early(model, enlarged(batch.pixels, dtype))
    loss, figures = torch.zeros(()), [0.0, 0.0]
    if teaching:
        near = apart(stages[-1], patches_of(nano, batch.pixels.to(dtype)))
        loss, figures = loss + near, [float(near.detach()), 0.0]
    if not prompted:
        return loss, [*figures, 0.0, 0.0]
    image = encode(model, stages)
    if teaching:
        near = apart(image.main, embedding_of(nano, batch.pixels.to(dtype)))
        loss, figures = teaching * (loss + near), [figures[0], float(near.detach())]
    tokens = rows_first(image.main.float())
    loss = loss + 0.3 * auxiliary_loss(head, tokens, batch.labels, batch.extents)
    every, count = step % 20, batch.targets.shape[1]
    sparse = prompt_tokens(model, batch, int(every in (7, 17)), rng)
    asked, there = sparse, None
    if step % 4 == 1:
        nothing, there = nothing_there(model, batch.labels, rng)
        asked = [*sparse, nothing]
    logits, iou, score = answers(model, image, asked)
    objects = F.softplus(-score[:, :count]).mean()
    if there is not None:
        objects = objects + (F.softplus(score[:, count:]) * there).mean()
    logits, iou = logits[:, :count], iou[:, :count]
    answer, actual = prompt_loss(logits, iou, batch.targets, 0.0, step % 3 == 0)
    if every in (3, 13):  # refine the mask just predicted
        given = logits[:, :, 0].detach()
        if every == 3:
            click, foreground = correction_click(rng, given, batch.targets)
            further = click_tokens(model, click * SCALE, foreground, pad=False)
            halves = zip(sparse, further.chunk(2, dim=1), strict=True)
            sparse = [torch.cat(group, dim=2) for group in halves]
        logits, iou, _ = answers(model, image, sparse, given.clamp(-32, 32).to(dtype))
        answer = 0.5 * (answer + prompt_loss(logits, iou, batch.targets, 0.0, False)[0])
    half = count // 2
    figures += [float(actual[:, :half].mean()), float(actual[:, half:].mean())]
    return loss + answer + 0.1 * objects, figures
