"""A picture in any form a user may have it, as ``(H, W, 3)`` uint8 RGB, or an error that says what to pass.

Files are read by :mod:`saqsam.images.files`. Arrays and tensors are taken where their meaning is plain:
channels at one end, bytes, or floats in 0..1 or 0..255. What could mean two things is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from saqsam.errors import ImageError
from saqsam.images.files import LoadedImage, Pixels, dark_note, from_pillow, open_image

Picture = str | Path | Image.Image | npt.NDArray[Any] | Tensor
"""A file; a Pillow image; ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``; or channels first."""

_CHANNELS = (1, 3, 4)
_INSTEAD = "pass (H, W, 3) uint8 RGB, or the name of an image file"


def as_pixels(picture: Picture, where: str = "image") -> LoadedImage:
    """The pixels of a picture, and what was changed on the way.

    Args:
        picture: a file name (``~`` is the home directory); a Pillow image, whose EXIF rotation is *not*
            applied, since its own pixels are what a caller counts; an array or tensor of one picture, grey
            ``(H, W)``, RGB or RGBA (transparency is dropped), channels last or first, of bytes, other
            integers in 0..255, or floats in 0..1 or 0..255.
        where: what to call it in a message, where it has no file name.

    Raises:
        ImageError: the file cannot be read, or the values or the shape could mean anything else.
    """
    if isinstance(picture, str | Path):
        return open_image(picture)
    if isinstance(picture, Image.Image):
        return from_pillow(picture, where)
    if isinstance(picture, Tensor):
        return _from_array(_array(picture, where), where, channels_first=True)
    if isinstance(picture, np.ndarray):
        # A subclass goes its own ways: numpy itself has crashed on repeating a np.matrix.
        return _from_array(np.asarray(picture), where, channels_first=False)
    if isinstance(picture, bytes | bytearray | memoryview):
        raise ImageError(
            where, "these are bytes; open them with PIL.Image.open(io.BytesIO(...)) and pass that"
        )
    if hasattr(picture, "read"):
        raise ImageError(where, "this is an open file; open it with PIL.Image.open and pass that")
    if isinstance(picture, Sequence):
        raise ImageError(
            where,
            f"this is a {type(picture).__name__}, but one picture is expected; for several use segment_many",
        )
    raise ImageError(where, f"a {type(picture).__name__} is no picture; {_INSTEAD}")


def _array(tensor: Tensor, where: str) -> npt.NDArray[Any]:
    values = tensor_values(tensor)
    if values is None:
        raise ImageError(where, f"a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}; {_INSTEAD}")
    return values


def tensor_values(tensor: Tensor) -> npt.NDArray[Any] | None:
    """A dense tensor of real numbers as an array, short floats as float32; None for any other tensor."""
    values = tensor.detach()
    if values.layout != torch.strided or values.is_nested:
        return None
    if values.is_complex() or values.is_quantized or values.is_meta:
        return None
    values = values.cpu()
    known = values.dtype in (torch.float32, torch.float64) or not values.is_floating_point()
    return (values if known else values.float()).numpy()


def _from_array(values: npt.NDArray[Any], where: str, *, channels_first: bool) -> LoadedImage:
    notes: list[str] = []
    if values.size == 0:
        raise ImageError(where, f"an empty array of shape {values.shape}; {_INSTEAD}")
    planes = _channels_last(values, where, channels_first, notes)
    if planes.shape[2] == 4:
        notes.append("transparency dropped")
        planes = planes[..., :3]
    pixels = _bytes(planes, where, notes)
    notes += dark_note(pixels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return LoadedImage(np.ascontiguousarray(pixels), tuple(notes))


def _channels_last(
    values: npt.NDArray[Any], where: str, channels_first: bool, notes: list[str]
) -> npt.NDArray[Any]:
    """``(H, W, C)`` of an array whose shape has one plain meaning."""
    if values.ndim == 2:
        return values[..., None]
    if values.ndim == 4:
        raise ImageError(
            where,
            f"shape {values.shape} is a batch; pass one picture, image[0], or list(images) to segment_many",
        )
    first = values.ndim == 3 and values.shape[0] in _CHANNELS
    last = values.ndim == 3 and values.shape[2] in _CHANNELS
    if first and last and channels_first:
        raise ImageError(
            where, f"a tensor of shape {tuple(values.shape)} could be (C, H, W) or (H, W, C); {_INSTEAD}"
        )
    if last:
        return values
    if first:
        notes.append("channels were first")
        return np.moveaxis(values, 0, 2)
    raise ImageError(
        where, f"expected (H, W, 3), (H, W) or (H, W, 4), got shape {tuple(values.shape)}; {_INSTEAD}"
    )


def _bytes(values: npt.NDArray[Any], where: str, notes: list[str]) -> Pixels:
    """uint8 of values whose black and white are plain."""
    if values.dtype == np.uint8:
        return values
    kind = values.dtype.kind
    if kind not in "iuf":
        hint = "multiply a mask by 255" if kind == "b" else _INSTEAD
        raise ImageError(where, f"values of {values.dtype} have no known black and white; {hint}")
    if kind == "f" and not np.isfinite(values).all():
        raise ImageError(where, "float values with NaN or infinity; replace them, then pass it again")
    low, high = values.min(), values.max()
    if low < 0:
        raise ImageError(
            where,
            f"values from {low:.4g} to {high:.4g}; undo the normalisation; they must lie in 0..1 or 0..255",
        )
    if high > 255:
        raise ImageError(
            where, f"values up to {high:.6g} have no known white; scale them to 0..255 and pass uint8"
        )
    if kind == "f" and high <= 1:
        notes.append("float values in 0..1 scaled to 8-bit")
        values = np.rint(values * 255)
    elif kind == "f":
        notes.append("float values in 0..255 rounded to 8-bit")
        values = np.rint(values)
    pixels: Pixels = values.astype(np.uint8)
    return pixels
