"""The prompt encoder in PyTorch, with the operations of the audited model: it is small, and float."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.graphs.source import Source
from saqsam.native.kernels import Kernels
from saqsam.native.parts import Parts

_PADDING = -1
"""Label of a point that is none."""


class Prompts:
    """Points, boxes and masks to what the decoder takes; arguments as of ``Parts``."""

    def __init__(self, source: Source, kernels: Kernels) -> None:
        parts, names = Parts(source, kernels), source.names
        config = source.part("prompt_encoder_config")
        self._side = source.image_size
        self._frequencies = parts.floats(names.frequencies)
        self._no_point, self._no_mask = parts.floats(names.no_point), parts.floats(names.no_mask)
        self._kinds = _kinds(parts, int(config["num_point_embeddings"]))
        self._own = torch.cat([parts.floats(f"{path}.weight") for path in names.output_tokens])
        path = names.mask_embedding
        self._convolutions = [_both(parts, f"{path}.conv{number}") for number in (1, 2, 3)]
        self._norms = [_both(parts, f"{path}.layer_norm{number}") for number in (1, 2)]
        self._epsilon = float(config["layer_norm_eps"])

    def positions(self, unit: Tensor) -> Tensor:
        """Fourier features ``(..., C)`` of positions ``(..., 2)`` in 0..1 of the input's side."""
        angle = 2 * math.pi * ((2 * unit - 1) @ self._frequencies)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)

    def of_image(self, side: int) -> Tensor:
        """The same of an image's tokens, ``(side * side, C)``."""
        axis = (torch.ones(side).cumsum(0) - 0.5) / side
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        return self.positions(torch.stack([columns, rows], dim=-1)).flatten(0, 1).contiguous()

    def tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """``(P, T, C)``: the decoder's own, then those of points ``(P, N, 2)`` with labels ``(P, N)``."""
        features = self.positions((coords.float() + 0.5) / self._side)
        label = labels[..., None]
        features = torch.where(label == _PADDING, self._no_point, features)
        for kind, embedding in enumerate(self._kinds):
            features = torch.where(label == kind, features + embedding, features)
        return torch.cat([self._own.expand(len(coords), -1, -1), features], dim=1)

    def dense(self, mask: Tensor | None) -> Tensor:
        """Mask prompts ``(P, 1, 4g, 4g)`` to ``(P, C, g, g)``, or what stands for none, ``(1, C, 1, 1)``."""
        if mask is None:
            return self._no_mask.view(1, -1, 1, 1)
        x = mask.float()
        for (weight, bias), norm in zip(self._convolutions, self._norms, strict=False):
            x = F.conv2d(x, weight, bias, stride=2).permute(0, 2, 3, 1)
            x = F.gelu(F.layer_norm(x, x.shape[-1:], *norm, self._epsilon)).permute(0, 3, 1, 2)
        return F.conv2d(x, *self._convolutions[2])


def _kinds(parts: Parts, count: int) -> list[Tensor]:
    """``(1, C)`` each: what is added to points with label 0, 1 and so on; SAM 2 has them in one table."""
    path = parts.source.names.points
    if parts.source.has(f"{path}.weight"):
        return list(parts.floats(f"{path}.weight")[:count].split(1))
    return [parts.floats(f"{path}.{kind}.weight") for kind in range(count)]


def _both(parts: Parts, path: str) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    return parts.floats(f"{path}.weight"), parts.floats(f"{path}.bias")
