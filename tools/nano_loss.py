"""Losses: masks (Dice with class-balanced cross-entropy, later focal), predicted IoU, encoder auxiliaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUXILIARY = 36
"""Per token: foreground and edge on 4 x 4 sub-cells, and the object's box seen from the patch."""


def mask_loss(logits: Tensor, targets: Tensor, balance: float) -> Tensor:
    """Dice plus cross-entropy for every mask; (..., P) logits and coverages in [0, 1] -> (...).

    Args:
        balance: 1 weighs foreground and background pixels alike (masks appear at once); 0 is the
            focal loss with gamma 2; values between mix the two.
    """
    chance = torch.sigmoid(logits)
    total = chance.sum(-1) + targets.sum(-1)
    loss = 1 - (2 * (chance * targets).sum(-1) + 1) / (total + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if balance < 1:
        loss = loss + (1 - balance) * 10 * ((targets - chance).square() * entropy).mean(-1)
    if balance > 0:
        share = targets.mean(-1, keepdim=True).clamp(0.01, 0.99)
        loss = loss + balance * (entropy * torch.where(targets > 0.5, 0.5 / share, 0.5 / (1 - share))).mean(
            -1
        )
    return loss


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the thresholded masks with the thresholded coverages; (..., P) -> (...)."""
    mask, truth = logits > 0, targets > 0.5
    return (mask & truth).sum(-1) / (mask | truth).sum(-1).clamp(min=1)


def prompt_loss(
    logits: Tensor, iou: Tensor, targets: Tensor, balance: float, all_masks: bool
) -> tuple[Tensor, Tensor]:
    """Loss of decoded prompts and their actual IoU (B, K).

    Args:
        logits: (B, K, 4, 64, 64); the first is the single mask.
        iou: (B, K, 4) predicted IoU.
        targets: (B, K, 64, 64) coverage.
        all_masks: also train the three masks of ambiguous prompts (the best of three counts).
    """
    flat, truth = logits.flatten(-2), targets.flatten(-2)
    loss = mask_loss(flat[:, :, 0], truth, balance).mean()
    actual = mask_iou(flat[:, :, 0], truth)
    loss = loss + (iou[:, :, 0] - actual).square().mean()
    if all_masks:
        three = truth[:, :, None].expand(-1, -1, 3, -1)
        loss = loss + 0.7 * mask_loss(flat[:, :, 1:], three, balance).min(-1).values.mean()
        loss = loss + (iou[:, :, 1:] - mask_iou(flat[:, :, 1:], three)).square().mean()
    return loss, actual


def auxiliary_loss(
    head: nn.Module, tokens: Tensor, labels: Tensor, extents: Tensor, complete: Tensor | None = None
) -> Tensor:
    """What the encoder must know before any prompt: foreground, object edges, extent of the object.

    Args:
        head: linear layer (C -> AUXILIARY), thrown away after training.
        tokens: (B, 256, C) image embedding.
        labels: (B, 128, 128) instance labels.
        extents: (B, 256, 4) sides of the box around the object at the patch centre, nan where none.
        complete: (B,) bool, images in which what has no label is background; None: all of them.  The
            others count for the extents alone.
    """
    out = head(tokens)
    cells = labels.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)  # (B, 64, 64, 4)
    foreground = (cells > 0).float().mean(-1)
    wide = F.pad(labels[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0]
    change = (wide[:, :-1, :-1] != wide[:, 1:, :-1]) | (wide[:, :-1, :-1] != wide[:, :-1, 1:])
    edge = F.max_pool2d(change[:, None].float(), 2)[:, 0]
    maps = torch.stack([foreground, edge], dim=1).unflatten(2, (16, 4)).unflatten(4, (16, 4))
    maps = maps.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, 256, 32)
    known = ~extents[..., 0].isnan()
    if complete is not None:
        entropy = F.binary_cross_entropy_with_logits(out[..., :32], maps, reduction="none").mean((1, 2))
        size = F.smooth_l1_loss(out[..., 32:][known], extents[known], reduction="sum")
        share = complete.float()
        return (entropy * share).sum() / share.sum().clamp(min=1) + 0.1 * size / (4 * known.sum()).clamp(
            min=1
        )
    loss = F.binary_cross_entropy_with_logits(out[..., :32], maps)
    return loss + 0.1 * F.smooth_l1_loss(out[..., 32:][known], extents[known])
