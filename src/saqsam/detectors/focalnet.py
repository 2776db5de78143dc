"""FocalNet (Yang et al., "Focal Modulation Networks", 2022) as a detector's backbone: one map for each stage.

The layers are ``transformers``'s; its own backbone class gives maps after they were halved and without the
norm that detectors put on each, so the stages are run one by one here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FocalNetMaps(nn.Module):
    """``(1, 3, H, W)`` to the normalised maps of strides 4, 8, 16 and 32, and the channels of each.

    Args:
        config: a ``FocalNetConfig``.
    """

    def __init__(self, config: Any) -> None:
        from transformers.models.focalnet.modeling_focalnet import FocalNetEmbeddings, FocalNetStage

        super().__init__()
        self.embeddings = FocalNetEmbeddings(config)
        grid = self.embeddings.patch_grid
        sizes = [(grid[0] // 2**index, grid[1] // 2**index) for index in range(len(config.depths))]
        self.stages = nn.ModuleList(FocalNetStage(config, index, size) for index, size in enumerate(sizes))
        self.channels = tuple(config.embed_dim * 2**index for index in range(len(config.depths)))
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in self.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, size = self.embeddings(image)
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            height, width = size
            x, whole, out_size = stage(x, (height, width))
            size = out_size[-2:]
            maps.append(norm(whole).transpose(1, 2).reshape(len(whole), -1, height, width))
        return maps
