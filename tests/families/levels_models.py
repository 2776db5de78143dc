"""What the small models of SAM 2 and SAM 3 in tests share: a decoder's configuration, and random weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

WIDTH = 32
"""Of the embedding."""


def decoder_config(**other: Any) -> dict[str, Any]:
    """Of a mask decoder; ``other`` settings win."""
    return {
        "hidden_size": WIDTH,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
        **other,
    }


def filled(model: Any, named: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    """Give a model random weights large enough that every part matters, drawn in the order of ``named``."""
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in named:
        spread = 0.3 if parameter.ndim > 1 else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    table = torch.randn((2, WIDTH // 2), generator=generator)
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.copy_(table)
