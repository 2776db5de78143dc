"""From the decoder's tokens to masks, in float: networks on tokens, and the image enlarged and drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.graphs.source import Source
from saqsam.native.jobs import UpscaleJob
from saqsam.native.kernels import Kernels
from saqsam.native.layer import padded
from saqsam.native.parts import Parts

_EPSILON = 1e-6
"""Of the norm between the two steps of the upscaling."""


class FeedForward:
    """Linear layers with ReLU between them.

    Args:
        parts: of the model.
        path: of the network.
        depth: layers of it.
    """

    def __init__(self, parts: Parts, path: str, depth: int) -> None:
        names = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
        self._layers = [
            (parts.floats(f"{path}.{name}.weight"), parts.floats(f"{path}.{name}.bias")) for name in names
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """``(P, in)`` to ``(P, out)``."""
        *inner, last = self._layers
        for layer in inner:
            x = F.relu(F.linear(x, *layer))
        return F.linear(x, *last)


class Masks:
    """Masks and scores; arguments as of ``Parts``."""

    def __init__(self, source: Source, kernels: Kernels) -> None:
        parts, names = Parts(source, kernels), source.names
        outputs = int(source.decoder["num_multimask_outputs"]) + 1
        self._side = source.grid
        self._scores = FeedForward(parts, names.iou_head, int(source.decoder["iou_head_depth"]))
        self._networks = [FeedForward(parts, f"{names.mask_heads}.{index}", 3) for index in range(outputs)]
        first, second = (parts.floats(f"{path}.weight") for path in names.upscaling)  # (in, out, 2, 2)
        biases = [parts.floats(f"{path}.bias") for path in names.upscaling]
        self._sizes = (first.shape[0], first.shape[1], second.shape[1])
        self._first = kernels.pack_matrix(first.permute(0, 2, 3, 1).flatten(1))
        self._first_bias = padded(biases[0].repeat(4))
        self._second = kernels.pack_matrix(second.flatten(1))
        self._second_bias = padded(biases[1].repeat_interleave(4))
        norm = names.upscaling_norm
        self._norm = (parts.floats(f"{norm}.weight"), parts.floats(f"{norm}.bias"))
        self._kernels = kernels

    def scores(self, tokens: Tensor) -> Tensor:
        """Predicted IoU ``(P, M)`` of tokens ``(P, T, C)``."""
        return self._scores(tokens[:, 0])

    def draw(self, tokens: Tensor, image: Tensor, chosen: list[int]) -> Tensor:
        """Logits ``(P, len(chosen), 4g, 4g)`` of tokens ``(P, T, C)`` on image tokens ``(P * g * g, C)``."""
        asked = torch.stack([self._networks[index](tokens[:, 1 + index]) for index in chosen], dim=1)
        vectors = asked.repeat_interleave(4, dim=2)
        vectors = F.pad(vectors, (0, -vectors.shape[2] % 32)).contiguous()
        side = 4 * self._side
        logits = torch.empty(len(tokens), len(chosen), side, side)
        job = UpscaleJob(prompts=len(tokens), side=self._side, masks=len(chosen), epsilon=_EPSILON)
        job.inner, job.first, job.second = self._sizes
        job.x, job.vectors, job.out = image.data_ptr(), vectors.data_ptr(), logits.data_ptr()
        job.first_weight, job.first_bias = self._first.data_ptr(), self._first_bias.data_ptr()
        job.norm_weight, job.norm_bias = (x.data_ptr() for x in self._norm)
        job.second_weight, job.second_bias = self._second.data_ptr(), self._second_bias.data_ptr()
        self._kernels.run("upscale", job)
        return logits
