"""Bringing an image to a detector's input as the published pipelines do.

They resize 8-bit images with OpenCV's bilinear filter, which does not smooth before it shrinks, and rounds
back to 8 bits. Pillow smooths, so its pixels differ visibly; ``interpolate`` without antialias agrees but for
OpenCV's fixed-point weights, which may move a value by one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from saqsam.images.files import Pixels


def fitted_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """Height and width in pixels after scaling an image to fit both limits, its shape kept.

    The larger side becomes at most ``long_side`` and the smaller at most ``short_side``, one of them exactly;
    halves are rounded up. An image is never shrunk to nothing.
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_pixels(pixels: Pixels, size: tuple[int, int], device: torch.device) -> Tensor:
    """``(H, W, 3)`` uint8 to ``(3, *size)`` float32 of whole numbers 0 to 255, channels in the same order."""
    image = torch.from_numpy(pixels).to(device).permute(2, 0, 1).float()
    if tuple(image.shape[1:]) == size:
        return image
    resized = functional.interpolate(
        image[None], size=size, mode="bilinear", align_corners=False, antialias=False
    )
    return resized[0].round().clamp(0, 255)


IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalise(image: Tensor) -> Tensor:
    """``(3, H, W)`` RGB 0 to 255, centred and scaled by ImageNet's mean and deviation."""
    mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    return (image - mean) / image.new_tensor(IMAGENET_STD)[:, None, None]
