"""Muon (orthogonalised momentum) for matrices and AdamW for everything else, on flat lists of tensors.

Muon: K. Jordan et al., 2024; updates are scaled to the size of Adam's (Liu et al., 2025,
arXiv:2502.16982, section 2.2).  Matrices of one shape are orthogonalised in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import SamModel

_STEPS = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonalised(batch: Tensor) -> Tensor:
    """Newton-Schulz iteration towards U V^T of every matrix; (N, R, C) -> (N, R, C)."""
    wide = batch.shape[1] <= batch.shape[2]
    x = batch if wide else batch.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in _STEPS:
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


def split_parameters(model: SamModel, head: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices for Muon (hidden linear layers and the neck) and the rest for AdamW."""
    matrices: list[Tensor] = []
    for part in (model.vision_encoder.layers, model.mask_decoder):
        matrices += [m.weight for m in part.modules() if isinstance(m, nn.Linear)]
    matrices += [model.vision_encoder.neck.conv1.weight, model.vision_encoder.neck.conv2.weight]
    known = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *head.parameters()) if id(p) not in known and p.requires_grad]
    return matrices, others


class Optimizer:
    """One step over both groups; state is a plain dictionary of tensors."""

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        decay: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``dtype`` is that of the orthogonalisation; parameters and momentum keep their own."""
        self.matrices, self.others, self.decay, self.dtype = matrices, others, decay, dtype
        self.momentum = [torch.zeros_like(p) for p in matrices]
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim > 1 and min(p.shape) > 1], "weight_decay": decay},
                {"params": [p for p in others if p.ndim <= 1 or min(p.shape) == 1], "weight_decay": 0.0},
            ],
            lr=1e-3,
            betas=(0.9, 0.98),
        )

    def state(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])

    @torch.no_grad()
    def step(self, muon_lr: float, adam_lr: float, rank: int = 0, workers: int = 1) -> None:
        """Update all parameters; the orthogonalisations are shared out between the processes."""
        for group in self.adam.param_groups:
            group["lr"] = adam_lr
        self.adam.step()
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, momentum in zip(self.matrices, self.momentum, strict=True):
            if not (parameter.grad.any() or momentum.any()):
                continue  # a part that is not trained yet
            momentum.lerp_(parameter.grad, 0.05)
            update = torch.lerp(parameter.grad, momentum, 0.95).flatten(1)
            parts = 3 if update.shape[0] == 3 * update.shape[1] else 1  # fused query/key/value
            for weight, direction in zip(parameter.chunk(parts), update.chunk(parts), strict=True):
                shapes[tuple(direction.shape)].append((weight, direction))
        total = sum(rows * columns * len(m) for (rows, columns), m in shapes.items())
        found = torch.zeros(total, device=self.matrices[0].device)
        at, targets = 0, []
        for (rows, columns), members in shapes.items():
            mine = members[rank::workers]
            place = found[at : at + rows * columns * len(members)].view(len(members), rows, columns)
            if mine:
                place[rank::workers] = orthogonalised(torch.stack([d for _, d in mine]).to(self.dtype))
            targets += zip((weight for weight, _ in members), place, strict=True)
            at += place.numel()
        if workers > 1:
            dist.all_reduce(found)
        for weight, direction in targets:
            size = 0.2 * max(direction.shape) ** 0.5
            weight.mul_(1 - muon_lr * self.decay).sub_(direction.view_as(weight), alpha=muon_lr * size)
