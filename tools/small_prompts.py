"""What is asked of ``small`` in one training step, and the loss of the answers."""

from __future__ import annotations

import numpy as np
import torch
from nano_forward import box_tokens, click_tokens, decode, encode
from nano_loss import auxiliary_loss, prompt_loss
from photos_samples import EXTRA, Sample
from torch import Tensor, nn
from train_nano import correction_click
from transformers import SamModel

_FURTHER_CLICKS = (0.7, 0.15, 0.1, 0.05)
"""Chance of 0, 1, 2 and 3 further clicks with every prompt of a step."""


def on_device(sample: Sample, device: torch.device) -> Sample:
    """The arrays of a batch as tensors."""
    return Sample(*(torch.from_numpy(array).to(device) for array in sample))


def sparse_tokens(model: SamModel, batch: Sample, further: int) -> Tensor:
    """(B, K, 2 + further, C): boxes with ``further`` clicks, then ``1 + further`` clicks and padding."""
    half = batch.boxes.shape[1] // 2
    boxes = box_tokens(model, batch.boxes[:, :half])
    if further:
        clicks = batch.clicks[:, :half, 1 : 1 + further], batch.inside[:, :half, 1 : 1 + further]
        boxes = torch.cat([click_tokens(model, *clicks, pad=False), boxes], dim=2)
    several = batch.clicks[:, half:, : 1 + further], batch.inside[:, half:, : 1 + further]
    return torch.cat([boxes, click_tokens(model, *several)], dim=1)


def step_loss(
    model: SamModel, head: nn.Module, batch: Sample, step: int, rng: np.random.Generator, dtype: torch.dtype
) -> tuple[Tensor, list[float]]:
    """Loss of one step, and the auxiliary loss and the mean IoU from boxes and from clicks."""
    kind = batch.pixels.device.type
    with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
        tokens = encode(model, batch.pixels)
        sparse = sparse_tokens(model, batch, int(rng.choice(1 + EXTRA, p=_FURTHER_CLICKS)))
        logits, iou = decode(model, tokens, sparse)
    logits, iou = logits.float(), iou.float()
    auxiliary = auxiliary_loss(head, tokens.float(), batch.labels, batch.extents, batch.complete)
    loss, actual = prompt_loss(logits, iou, batch.targets, 0.0, step % 3 == 0)
    mode = rng.random()
    if mode < 0.2:  # refine the mask just predicted
        given = logits[:, :, 0].detach().clamp(-32, 32)
        if mode < 0.12:
            click, foreground = correction_click(rng, given, batch.targets)
            sparse = torch.cat([sparse, click_tokens(model, click, foreground, pad=False)], dim=2)
        elif mode < 0.15:  # nothing but the mask
            sparse = sparse[:, :, :0]
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            logits, iou = decode(model, tokens, sparse, given)
        loss = 0.5 * (loss + prompt_loss(logits.float(), iou.float(), batch.targets, 0.0, False)[0])
    half = actual.shape[1] // 2
    figures = [float(auxiliary.detach()), float(actual[:, :half].mean()), float(actual[:, half:].mean())]
    return loss + 0.5 * auxiliary, figures
