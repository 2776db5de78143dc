"""Images as a model's family wants them; see :mod:`saqsam.images.frame`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from saqsam.families.registry import HasConfig, sizes_of
from saqsam.images.frame import Frame, frame_in, model_input


def frame_for(model: HasConfig, height: int, width: int) -> Frame:
    """The frame of a ``height`` x ``width`` image in the model's input."""
    return frame_in(sizes_of(model).preprocessing, height, width)


def preprocess(model: HasConfig, pixels: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
    """The model's input ``(1, 3, S, S)`` for (H, W, 3) uint8 RGB, float32 on the CPU, and its frame.

    Raises:
        ImageError: the pixels are not (H, W, 3) uint8.
    """
    return model_input(sizes_of(model).preprocessing, pixels)
