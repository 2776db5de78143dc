"""Mask prompts from files: logits as ``.npy``, or a picture of a mask at the size of the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from saqsam.errors import ImageError, PromptError
from saqsam.images.files import open_image
from saqsam.images.frame import Frame

PICTURE_LOGIT = 8.0
"""Logit of a pixel that a picture of a mask has on the object, and with a minus of one beside it."""


def read_masks(paths: Sequence[Path], frame: Frame, side: int) -> npt.NDArray[np.float32]:
    """The mask prompts in several files, one after the other.

    Args:
        paths: ``.npy`` files of ``(P, side, side)``, ``(P, 1, side, side)`` or ``(side, side)`` logits, or
            pictures of one mask each, white (or the one other value than 0) on the object, at the size of
            the image.
        frame: of the image.
        side: of the model's low-resolution masks.

    Returns:
        ``(P, side, side)`` float32, of all files.

    Raises:
        PromptError: logits of another size or kind. ImageError: a picture that cannot be read or has another
            size than the image.
    """
    found = [
        _logits(path, side)
        if path.suffix.lower() == ".npy"
        else logits_of_mask(_mask(path, frame.original), frame, side)[None]
        for path in paths
    ]
    return np.concatenate(found)


def logits_of_mask(mask: npt.NDArray[np.bool_], frame: Frame, side: int) -> npt.NDArray[np.float32]:
    """A mask ``(H, W)`` of the image as a mask prompt ``(side, side)``: its share of each cell, as logits."""
    height, width = (max(1, round(length * side / frame.size)) for length in frame.resized)
    small = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    logits = np.full((side, side), -PICTURE_LOGIT, dtype=np.float32)
    logits[:height, :width] = PICTURE_LOGIT * (2 * np.asarray(small) - 1)
    return logits


def _logits(path: Path, side: int) -> npt.NDArray[np.float32]:
    wanted = f"({side}, {side}) or (P, {side}, {side}) logits, such as low_res_logits of an earlier answer"
    try:
        values: Any = np.load(path.expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PromptError(f"{path}: not a numpy file ({error}); expected {wanted}") from error
    if not isinstance(values, np.ndarray):
        raise PromptError(f"{path}: an archive of several arrays; expected one array of {wanted}")
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[1:] != (side, side) or values.dtype.kind not in "iuf":
        raise PromptError(f"{path}: holds {values.dtype} of shape {values.shape}; expected {wanted}")
    with np.errstate(over="ignore"):  # what is not finite is refused where all prompts are
        return np.array(values, dtype=np.float32)


def _mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    pixels = open_image(path).pixels
    if pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise ImageError(
            path,
            f"the mask is {width} x {height} pixels, the image {size[1]} x {size[0]}; give one of its size",
        )
    values = pixels.max(axis=2)
    if (largest := int(values.max())) == 0:
        raise ImageError(path, "no pixel of this mask is on an object; give one with the object in white")
    # A mask written as 0 and 1, or as 0 and the number of a class, shows its object as plainly.
    alone = bool(((values == 0) | (values == largest)).all())
    mask: npt.NDArray[np.bool_] = values > (0 if alone else 127)
    if not mask.any():
        raise ImageError(path, "no pixel of this mask is above 127 of 255; give one with the object in white")
    return mask
