"""Where an image lies in the model's square input, and the pixels it is given there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from saqsam.errors import ImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of RGB in 0..1, as SAM was trained with."""
_LEAST_SPREAD = 1e-8
"""A picture of one colour becomes black."""


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images.

    Attributes:
        side: of its square input in pixels.
        pads: the longest side is resized to the input and the rest padded on the right and below (Kirillov et
            al., "Segment Anything" (2023), appendix A); else both sides are resized to it, each by its own
            factor.
        mean, std: of RGB in 0..1, taken off and divided by.
        bicubic: resized by bicubic rather than bilinear interpolation.
        spread: in place of mean and deviation, each picture's values are brought to 0..1 by its own least and
            largest one.
    """

    side: int
    pads: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    bicubic: bool = False
    spread: bool = False


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the model's square input.

    Attributes:
        original: (height, width) of the displayed image in pixels.
        resized: (height, width) of the picture inside the input; the rest, right and below, is padding.
        size: side of the square input in pixels.
        pads: whether there may be padding, see :class:`Preprocessing`.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    size: int
    pads: bool = True

    def scale_points(self, points: Tensor) -> Tensor:
        """(..., 2) ``x, y`` from displayed-image pixels to input pixels, float32."""
        (height, width), (new_height, new_width) = self.original, self.resized
        factors = torch.tensor([new_width / width, new_height / height], dtype=torch.float64)
        return (points.double() * factors.to(points.device)).float()

    def scale_boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) ``x0, y0, x1, y1`` from displayed-image pixels to input pixels, float32."""
        return self.scale_points(boxes.reshape(*boxes.shape[:-1], 2, 2)).flatten(-2)

    def enlarge(self, logits: Tensor) -> Tensor:
        """Low-resolution logits ``(P, M, h, w)`` in displayed-image pixels, ``(P, M, H, W)``.

        As published: by way of the model's input where that has padding, which is cut off there; at once
        where it has none.
        """
        if self.pads:
            height, width = self.resized
            logits = F.interpolate(logits, (self.size, self.size), mode="bilinear", align_corners=False)
            logits = logits[..., :height, :width]
            if self.resized == self.original:  # to its own size it would be copied unchanged
                return logits
        return F.interpolate(logits, self.original, mode="bilinear", align_corners=False)


def frame_in(how: Preprocessing, height: int, width: int) -> Frame:
    """The frame of a ``height`` x ``width`` image; no side of it is below 1 px."""
    resized = (how.side, how.side)
    if how.pads:
        scale = how.side / max(height, width)
        resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    return Frame((height, width), resized, how.side, how.pads)


def checked_pixels(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same pixels, seen to be (H, W, 3) uint8; raises ImageError where they are not."""
    if not isinstance(pixels, np.ndarray):
        raise ImageError("pixels", f"expected a (H, W, 3) uint8 array, got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError("pixels", f"expected (H, W, 3) uint8 RGB, got {pixels.shape} {pixels.dtype}")
    return pixels


def model_input(how: Preprocessing, pixels: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
    """A model's input for one image.

    Args:
        how: the model wants it.
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (1, 3, S, S) float32 on the CPU, S the model's input side, and where the image lies in it.

    Raises:
        ImageError: the pixels are not (H, W, 3) uint8.
    """
    checked_pixels(pixels)
    frame = frame_in(how, *pixels.shape[:2])
    height, width = frame.resized
    picture = Image.fromarray(pixels)
    if (height, width) != frame.original:
        filter = Image.Resampling.BICUBIC if how.bicubic else Image.Resampling.BILINEAR
        picture = picture.resize((width, height), filter)
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    if how.spread:
        least, largest = values.min(), values.max()
        values = (values - least) / (largest - least).clamp(min=_LEAST_SPREAD)
    else:
        values = (values - torch.tensor(how.mean)[:, None, None]) / torch.tensor(how.std)[:, None, None]
    # Zeros come after normalising: the padding is grey to the model, not black.
    return F.pad(values, (0, frame.size - width, 0, frame.size - height))[None], frame
