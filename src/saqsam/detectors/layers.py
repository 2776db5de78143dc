"""Building blocks of the detectors from mmdet: normalised convolutions, ResNet, the feature pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)


class ConvBnSilu(nn.Module):
    """Convolution without bias, batch norm (epsilon 1e-3), SiLU; padding keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(x)))


class Convolution(nn.Module):
    """A convolution with bias, called ``conv`` as in mmdet's files."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x)
        return convolved


class Fpn(nn.Module):
    """Feature pyramid (Lin et al., 2017): top-down sums, a 3 x 3 convolution each, one halved extra level.

    Args:
        inputs: channels of the backbone's maps, finest first.
        channels: of every output.
    """

    def __init__(self, inputs: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Convolution(count, channels, 1) for count in inputs)
        self.fpn_convs = nn.ModuleList(Convolution(channels, channels, 3) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(1, inputs[i], h, w)`` to one more output than inputs, each ``(1, channels, h, w)``."""
        merged = [convolve(one) for convolve, one in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            size = merged[level - 1].shape[-2:]
            merged[level - 1] = merged[level - 1] + functional.interpolate(merged[level], size=size)
        outputs = [convolve(one) for convolve, one in zip(self.fpn_convs, merged, strict=True)]
        return [*outputs, functional.max_pool2d(outputs[-1], 1, stride=2)]


class Bottleneck(nn.Module):
    """ResNet's bottleneck, its stride in the 3 x 3 convolution (what mmdet calls 'pytorch' style)."""

    def __init__(self, inputs: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, width * 4, 1, stride, bias=False), nn.BatchNorm2d(width * 4))
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet with bottlenecks (He et al., 2016), under torchvision's names.

    Args:
        depths: blocks of the four stages; ``(3, 4, 6, 3)`` is ResNet-50.
        width: channels of the stem.
    """

    def __init__(self, depths: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, depths[0], 1)
        self.layer2 = self._stage(width * 4, width * 2, depths[1], 2)
        self.layer3 = self._stage(width * 8, width * 4, depths[2], 2)
        self.layer4 = self._stage(width * 16, width * 8, depths[3], 2)
        self.channels = tuple(width * 4 * 2**stage for stage in range(4))

    @staticmethod
    def _stage(inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
        first = Bottleneck(inputs, width, stride, project=True)
        return nn.Sequential(first, *(Bottleneck(width * 4, width, 1, False) for _ in range(depth - 1)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(1, 3, H, W)`` to the maps of strides 4, 8, 16 and 32."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def laid_out(build: Callable[[], M]) -> M:
    """A module on the meta device: names and shapes, no memory, until :func:`weights.fill` fills it."""
    with torch.device("meta"):
        return build()
