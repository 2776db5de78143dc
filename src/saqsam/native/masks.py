"""From the decoder's tokens to masks, in float: networks on tokens, and the image enlarged and drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.native.jobs import UpscaleJob
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


@dataclass(frozen=True)
class FinerLevels:
    """Of SAM 2's embedding, in the order in which pixels come out of the upscaling's two steps.

    Attributes:
        middle: ``(g * g, 4, C / 4)``.
        fine: ``(g * g, 4, C / 8 * 4)``.
    """

    middle: Tensor
    fine: Tensor

    @classmethod
    def of(cls, fine: Tensor, middle: Tensor) -> FinerLevels:
        """From ``(1, C / 8, 4g, 4g)`` and ``(1, C / 4, 2g, 2g)``."""
        grid = middle.shape[-1] // 2
        by_two = middle[0].unflatten(2, (grid, 2)).unflatten(1, (grid, 2)).permute(1, 3, 2, 4, 0)
        by_four = fine[0].unflatten(2, (grid, 2, 2)).unflatten(1, (grid, 2, 2)).permute(1, 4, 2, 5, 0, 3, 6)
        moved = (x.reshape(grid * grid, 4, -1).float().contiguous() for x in (by_two, by_four))
        return cls(*moved)


class Masks:
    """Masks and scores.

    Args:
        parts: of the model.
    """

    def __init__(self, parts: Parts) -> None:
        source, kernels, names = parts.source, parts.kernels, parts.source.names
        outputs = int(source.decoder["num_multimask_outputs"]) + 1
        self._side = source.grid
        self._iou = source.iou_index
        self._scores = FeedForward(parts, names.iou_head, int(source.decoder["iou_head_depth"]))
        has_objects = source.has(f"{names.object_head}.proj_in.weight")
        self._objects = FeedForward(parts, names.object_head, 3) if has_objects else None
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

    def scores(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Predicted IoU ``(P, M)`` of tokens ``(P, T, C)``, and logits ``(P, 1)`` of there being an object of
        models that say so; their predicted IoU goes through a sigmoid."""
        found = self._scores(tokens[:, self._iou])
        return (found,) if self._objects is None else (found.sigmoid(), self._objects(tokens[:, 0]))

    def draw(
        self, tokens: Tensor, image: Tensor, chosen: list[int], finer: FinerLevels | None = None
    ) -> Tensor:
        """Logits ``(P, len(chosen), 4g, 4g)`` of tokens ``(P, T, C)`` on image tokens ``(P * g * g, C)``."""
        first = self._iou + 1
        asked = torch.stack([self._networks[index](tokens[:, first + index]) for index in chosen], dim=1)
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
        if finer is not None:
            job.first_features, job.second_features = finer.middle.data_ptr(), finer.fine.data_ptr()
        self._kernels.run("upscale", job)
        return logits
