"""Faster R-CNN, ResNet-50, feature pyramid (Ren et al., 2015; Lin et al., 2017), under mmdet's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from saqsam.datasets.boxes import nms_by_group
from saqsam.detectors.anchors import RATIOS, anchors, apply_deltas
from saqsam.detectors.layers import Fpn, ResNet
from saqsam.detectors.roi_align import roi_align

STRIDES = (4, 8, 16, 32, 64)
PRE_NMS, KEPT, RPN_IOU = 1000, 1000, 0.7
CELLS = 7
FINEST_SCALE = 56.0
RPN_DEVIATIONS = (1.0, 1.0, 1.0, 1.0)
BOX_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)


@dataclass(frozen=True)
class FasterRcnnSizes:
    """Sizes; the defaults are R50-FPN on COCO.

    Attributes:
        depths: of the ResNet.
        width: of its stem.
        channels: of the pyramid.
        hidden: of the two fully connected layers.
        classes: of objects, background not counted.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    channels: int = 256
    hidden: int = 1024
    classes: int = 80


class RpnHead(nn.Module):
    """Region proposals: for each cell and anchor one logit and four differences."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, len(RATIOS) * 4, 1)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Up to 1,000 boxes ``(N, 4)``, best first: the best 1,000 of each map, thinned level by level.

        Args:
            maps: the pyramid, one image.
            height: of the scaled image in input pixels, padding not counted.
            width: likewise.
        """
        boxes, scores, levels = [], [], []
        for level, (one, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            hidden = functional.relu(self.rpn_conv(one))
            score = self.rpn_cls(hidden)[0].permute(1, 2, 0).reshape(-1).sigmoid()
            deltas = self.rpn_reg(hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            best = torch.sort(score, descending=True, stable=True).indices[:PRE_NMS]
            around = anchors(one.shape[2], one.shape[3], stride, one.device)[best]
            boxes.append(apply_deltas(around, deltas[best], RPN_DEVIATIONS, width, height))
            scores.append(score[best])
            levels.append(torch.full_like(best, level))
        proposals = torch.cat(boxes)
        whole = (proposals[:, 2:] > proposals[:, :2]).all(1)
        proposals, score = proposals[whole], torch.cat(scores)[whole]
        kept = nms_by_group(proposals, score, torch.cat(levels)[whole], RPN_IOU)[:KEPT]
        return proposals[kept]


class BoxHead(nn.Module):
    """Two fully connected layers, then class logits (background last) and differences for each class."""

    def __init__(self, sizes: FasterRcnnSizes) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList(
            [nn.Linear(sizes.channels * CELLS**2, sizes.hidden), nn.Linear(sizes.hidden, sizes.hidden)]
        )
        self.fc_cls = nn.Linear(sizes.hidden, sizes.classes + 1)
        self.fc_reg = nn.Linear(sizes.hidden, sizes.classes * 4)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """For ``(N, 4)`` proposals: logits ``(N, C + 1)`` and differences ``(N, C, 4)``."""
        x = pyramid_align(maps, boxes).flatten(1)
        for layer in self.shared_fcs:
            x = functional.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x).reshape(len(boxes), -1, 4)


class RoiHead(nn.Module):
    """Holds the box head under mmdet's name."""

    def __init__(self, sizes: FasterRcnnSizes) -> None:
        super().__init__()
        self.bbox_head = BoxHead(sizes)


class FasterRcnn(nn.Module):
    """The whole network.

    Attributes:
        backbone, neck, rpn_head, roi_head: as in mmdet's files.
    """

    def __init__(self, sizes: FasterRcnnSizes) -> None:
        super().__init__()
        self.backbone = ResNet(sizes.depths, sizes.width)
        self.neck = Fpn(self.backbone.channels, sizes.channels)
        self.rpn_head = RpnHead(sizes.channels)
        self.roi_head = RoiHead(sizes)

    def forward(self, image: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Scores and boxes of every proposal and class.

        Args:
            image: ``(1, 3, H, W)`` normalised, padded at the right and below.
            height: of the image without padding, in input pixels.
            width: likewise.

        Returns:
            ``(N, C)`` probabilities without background, and ``(N, C, 4)`` corners in input pixels.
        """
        maps = self.neck(self.backbone(image))
        proposals = self.rpn_head(maps, height, width)
        logits, deltas = self.roi_head.bbox_head(maps[:4], proposals)
        classes = deltas.shape[1]
        around = proposals[:, None].expand(-1, classes, -1).reshape(-1, 4)
        boxes = apply_deltas(around, deltas.reshape(-1, 4), BOX_DEVIATIONS, width, height)
        return logits.softmax(1)[:, :-1], boxes.reshape(-1, classes, 4)


def pyramid_align(maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """RoIAlign of each box on the map that suits its size: a square of 112 pixels goes to stride 8.

    Args:
        maps: four maps of strides 4 to 32, each ``(1, C, h, w)``.
        boxes: ``(N, 4)`` corners in input pixels.

    Returns:
        ``(N, C, 7, 7)``.
    """
    level = pyramid_level(boxes)
    found = maps[0].new_zeros((len(boxes), maps[0].shape[1], CELLS, CELLS))
    for index, one in enumerate(maps):
        rows = level == index
        found[rows] = roi_align(one[0], boxes[rows], 1 / STRIDES[index], CELLS)
    return found


def pyramid_level(boxes: Tensor) -> Tensor:
    """``(N,)`` int64, 0 to 3: ``floor(log2(sqrt(area) / 56))``, kept in range."""
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=0).sqrt()
    return (side / FINEST_SCALE + 1e-6).log2().floor().clamp(0, 3).long()
