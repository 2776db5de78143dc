"""YOLOX-L (Ge et al., "YOLOX: Exceeding YOLO Series in 2021"), with the module names of mmdet's files.

CSPDarknet, a path-aggregation pyramid, and a decoupled head: for each cell of three maps (strides 8, 16,
32) 80 class logits, four box numbers and one objectness logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from saqsam.detectors.layers import ConvBnSilu


@dataclass(frozen=True)
class YoloxSizes:
    """Sizes of one member of the family; the defaults are YOLOX-L.

    Attributes:
        width: channels of the stem; later stages double it.
        depths: residual blocks of the four stages.
        neck_depth: blocks in each CSP layer of the pyramid.
        classes: of objects.
    """

    width: int = 64
    depths: tuple[int, int, int, int] = (3, 9, 9, 3)
    neck_depth: int = 3
    classes: int = 80


class Focus(nn.Module):
    """Every 2 x 2 patch becomes one cell of four times the channels, then a 3 x 3 convolution."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBnSilu(12, outputs, 3)

    def forward(self, image: Tensor) -> Tensor:
        # Order of the published weights: top left, bottom left, top right, bottom right.
        parts = [image[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        cells: Tensor = self.conv(torch.cat(parts, dim=1))
        return cells


class Block(nn.Module):
    """1 x 1 and 3 x 3 convolution, added to the input where ``identity``."""

    def __init__(self, channels: int, identity: bool) -> None:
        super().__init__()
        self.conv1 = ConvBnSilu(channels, channels, 1)
        self.conv2 = ConvBnSilu(channels, channels, 3)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.identity else y


class CspLayer(nn.Module):
    """Cross-stage partial layer: half of the channels go through the blocks, half past them."""

    def __init__(self, inputs: int, outputs: int, depth: int, identity: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.main_conv = ConvBnSilu(inputs, half, 1)
        self.short_conv = ConvBnSilu(inputs, half, 1)
        self.final_conv = ConvBnSilu(2 * half, outputs, 1)
        self.blocks = nn.Sequential(*(Block(half, identity) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.final_conv(torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], 1))
        return joined


class PyramidPool(nn.Module):
    """Spatial pyramid pooling: maxima over windows of 5, 9 and 13 cells beside the cell itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBnSilu(channels, channels // 2, 1)
        self.conv2 = ConvBnSilu(channels // 2 * 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [functional.max_pool2d(x, window, 1, window // 2) for window in (5, 9, 13)]
        joined: Tensor = self.conv2(torch.cat([x, *pooled], dim=1))
        return joined


class CspDarknet(nn.Module):
    """Backbone; gives the maps of strides 8, 16 and 32."""

    def __init__(self, sizes: YoloxSizes) -> None:
        super().__init__()
        width, depths = sizes.width, sizes.depths
        self.stem = Focus(width)
        self.stage1 = self._stage(width, depths[0])
        self.stage2 = self._stage(width * 2, depths[1])
        self.stage3 = self._stage(width * 4, depths[2])
        self.stage4 = nn.Sequential(
            ConvBnSilu(width * 8, width * 16, 3, 2),
            PyramidPool(width * 16),
            CspLayer(width * 16, width * 16, depths[3], identity=False),
        )

    @staticmethod
    def _stage(inputs: int, depth: int) -> nn.Sequential:
        return nn.Sequential(
            ConvBnSilu(inputs, inputs * 2, 3, 2), CspLayer(inputs * 2, inputs * 2, depth, identity=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stage2(self.stage1(self.stem(image)))
        middle = self.stage3(x)
        return [x, middle, self.stage4(middle)]


class PathAggregation(nn.Module):
    """Pyramid that passes features down to the finest map and up again (PAFPN)."""

    def __init__(self, sizes: YoloxSizes) -> None:
        super().__init__()
        fine, middle, coarse = (sizes.width * factor for factor in (4, 8, 16))
        depth = sizes.neck_depth
        self.reduce_layers = nn.ModuleList([ConvBnSilu(coarse, middle, 1), ConvBnSilu(middle, fine, 1)])
        self.top_down_blocks = nn.ModuleList(
            [CspLayer(2 * middle, middle, depth, False), CspLayer(2 * fine, fine, depth, False)]
        )
        self.downsamples = nn.ModuleList([ConvBnSilu(fine, fine, 3, 2), ConvBnSilu(middle, middle, 3, 2)])
        self.bottom_up_blocks = nn.ModuleList(
            [CspLayer(2 * fine, middle, depth, False), CspLayer(2 * middle, coarse, depth, False)]
        )
        self.out_convs = nn.ModuleList(ConvBnSilu(count, fine, 1) for count in (fine, middle, coarse))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        coarse = self.reduce_layers[0](coarse)
        middle = self.top_down_blocks[0](torch.cat([_doubled(coarse), middle], dim=1))
        middle = self.reduce_layers[1](middle)
        fine = self.top_down_blocks[1](torch.cat([_doubled(middle), fine], dim=1))
        middle = self.bottom_up_blocks[0](torch.cat([self.downsamples[0](fine), middle], dim=1))
        coarse = self.bottom_up_blocks[1](torch.cat([self.downsamples[1](middle), coarse], dim=1))
        return [convolve(one) for convolve, one in zip(self.out_convs, (fine, middle, coarse), strict=True)]


class DecoupledHead(nn.Module):
    """Separate towers for classes and for boxes with objectness, on each of three maps."""

    def __init__(self, sizes: YoloxSizes) -> None:
        super().__init__()
        width = sizes.width * 4
        self.multi_level_cls_convs = nn.ModuleList(_tower(width) for _ in range(3))
        self.multi_level_reg_convs = nn.ModuleList(_tower(width) for _ in range(3))
        self.multi_level_conv_cls = nn.ModuleList(nn.Conv2d(width, sizes.classes, 1) for _ in range(3))
        self.multi_level_conv_reg = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(3))
        self.multi_level_conv_obj = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(3))

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each map: ``(1, C, h, w)`` class logits, ``(1, 4, h, w)`` boxes, ``(1, 1, h, w)`` objectness."""
        found = []
        for level, one in enumerate(maps):
            classes = self.multi_level_cls_convs[level](one)
            boxes = self.multi_level_reg_convs[level](one)
            found.append(
                (
                    self.multi_level_conv_cls[level](classes),
                    self.multi_level_conv_reg[level](boxes),
                    self.multi_level_conv_obj[level](boxes),
                )
            )
        return found


class Yolox(nn.Module):
    """The whole network: ``(1, 3, H, W)`` BGR 0 to 255, sides divisible by 32, to the head's maps."""

    def __init__(self, sizes: YoloxSizes) -> None:
        super().__init__()
        self.backbone = CspDarknet(sizes)
        self.neck = PathAggregation(sizes)
        self.bbox_head = DecoupledHead(sizes)

    def forward(self, image: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor, Tensor]] = self.bbox_head(self.neck(self.backbone(image)))
        return found


def _tower(width: int) -> nn.Sequential:
    return nn.Sequential(ConvBnSilu(width, width, 3), ConvBnSilu(width, width, 3))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")
