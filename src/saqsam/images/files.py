"""Reading image files so that the pixels are those a person sees, or an error says why not.

Pillow alone turns 16-bit greys into white, ignores the rotation tag of cameras and reads NaN as black,
all without a word. Here each such case is either handled and noted, or refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from saqsam.errors import ImageError
from saqsam.files import LFS_POINTER, is_lfs_pointer, is_url, what_is_there
from saqsam.images.orientation import INVERSE, ORIENTATIONS, orientation_of
from saqsam.images.pillow import FORMATS, PILLOW_FAILURES, check_sums, opening_up_to, readable_formats
from saqsam.quiet import quiet_libraries

MAX_PIXELS = 89_000_000

_limit: ContextVar[int] = ContextVar("pixel_limit", default=MAX_PIXELS)

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
)
"""Lower-case endings by which a folder's images are found; what a file is, its content decides."""
NEARLY_BLACK = "nearly black"
"""How the note on a picture begins that was read with too wide a scale."""
DARK = 17
"""Of 255: a picture without any value as high is nearly black."""
_DARK_16_BIT = 1 << 12
"""Data of 12 bits in a file of 16 stays below this value."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LoadedImage:
    """An image as the model sees it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        notes: what was changed on the way from the file, one short sentence each.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Inside the block images of up to ``max_pixels`` pixels are read; :data:`MAX_PIXELS` otherwise.

    The limit protects memory: decoding takes 3 to 12 bytes for each pixel. It holds for the calling thread.
    """
    token = _limit.set(max_pixels)
    try:
        yield
    finally:
        _limit.reset(token)


def current_pixel_limit() -> int:
    """Most pixels of an image that is read here and now."""
    return _limit.get()


def open_image(path: str | Path, *, max_pixels: int | None = None, apply_exif: bool = True) -> LoadedImage:
    """Read an image file as 8-bit RGB.

    Args:
        path: PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000 or AVIF, told apart by content, not by name;
            ``~`` is the home directory.
        max_pixels: refuse images with more pixels than this, before any is decoded; None takes the limit of
            :func:`pixel_limit`.
        apply_exif: rotate as the camera's orientation tag asks. Turn it off for data sets such as COCO
            whose annotations count pixels as stored.

    Returns:
        The pixels, and notes on what was converted.

    Raises:
        ImageError: no such file, not an image, truncated, too large, or pixel values whose scale is not
            known (32-bit integers, floats outside 0..255, NaN).
    """
    path = image_file(path)
    most = current_pixel_limit() if max_pixels is None else max_pixels
    with warnings.catch_warnings(record=True) as said, opening_up_to(most):
        warnings.simplefilter("always")
        try:
            with Image.open(path, formats=readable_formats()) as image:
                _refuse_large(path, image.width * image.height, most)
                check_sums(path, image)
                pixels, notes = _decode(path, image, apply_exif)
        except Image.DecompressionBombError as error:
            counted = re.search(r"\((\d+) pixels\)", str(error))
            _refuse_large(path, int(counted[1]) if counted else most + 1, most)
            raise ImageError(path, f"{error}; cut it into tiles first") from error
        except UnidentifiedImageError as error:
            raise ImageError(
                path, f"not an image in a format that is read here ({', '.join(FORMATS)}); convert it to PNG"
            ) from error
        except PILLOW_FAILURES as error:
            raise ImageError(
                path, f"damaged or truncated image ({type(error).__name__}: {error}); copy it again"
            ) from error
    return LoadedImage(pixels, (*notes, *_notes_from_warnings(said), *dark_note(pixels, notes)))


def image_file(path: str | Path) -> Path:
    """The path with ``~`` expanded, if there is a file that may be an image.

    The usual accidents are named here, before a decoder calls them all 'unidentified'.

    Raises:
        ImageError: an address, no regular file, empty, a web page, or it cannot be read.
    """
    path = _local(path)
    try:
        if not path.is_file():
            raise ImageError(path, f"{what_is_there(path)}; expected an image file")
        with path.open("rb") as file:
            start = file.read(256).lstrip().lower()
            empty = not start and file.seek(0, 2) == 0
    except (OSError, ValueError) as error:
        raise ImageError(path, f"cannot be read ({error})") from error
    if empty:
        raise ImageError(path, "the file is empty; copy it again")
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        raise ImageError(path, "this is a web page, not an image; did the download fail?")
    if is_lfs_pointer(start):
        raise ImageError(path, LFS_POINTER)
    return path


def _local(path: str | Path) -> Path:
    """The path with ``~`` expanded; an address is refused."""
    if is_url(path):
        raise ImageError(
            f"{path!s:.200}", "is an address, and nothing is fetched here; download it and give the file"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ImageError(path, f"cannot be found ({error}); write the whole path") from error


def _refuse_large(path: Path, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ImageError(
            path,
            f"{pixels:,} pixels, more than the limit of {max_pixels:,}; "
            f"raise --max-pixels to {pixels} (in Python: saqsam.images.files.pixel_limit) to read it",
        )


def _decode(path: Path, image: Image.Image, apply_exif: bool) -> tuple[Pixels, list[str]]:
    notes: list[str] = []
    if getattr(image, "is_animated", False):
        notes.append("first of several frames")
    if image.format != "TIFF":  # which Pillow turns upright while loading
        image.load()  # before tags are asked for: that reads a PNG to its end, and what fails is passed over
    orientation = orientation_of(image, notes)
    # libtiff writes what it finds to standard error, whoever asked, and says no more than a number here.
    quietly: AbstractContextManager[list[str]]
    quietly = quiet_libraries() if image.format == "TIFF" else nullcontext([])
    with quietly as lines:
        image.load()
    notes += [f"libtiff: {line[:120]}" for line in lines[:3]]
    pixels, converted = _to_rgb(path, image)
    notes += converted
    if orientation in ORIENTATIONS:
        # Pillow turns TIFF files upright on its own while loading them, and no others.
        is_upright = image.format == "TIFF"
        if apply_exif != is_upright:
            turn = ORIENTATIONS[orientation] if apply_exif else INVERSE[orientation]
            pixels = np.array(Image.fromarray(pixels).transpose(turn))
        if apply_exif:
            notes.append(f"rotated as EXIF orientation {orientation} asks")
    return pixels, notes


def from_pillow(image: Image.Image, where: str = "image") -> LoadedImage:
    """The pixels of an image that Pillow has opened or made, in its own frame: EXIF rotation is not applied.

    Raises:
        ImageError: it cannot be decoded, or its values have no known scale; ``where`` names it.
    """
    path = Path(getattr(image, "filename", "") or where)
    notes: list[str] = []
    try:
        if image.format != "TIFF":
            image.load()
        orientation = orientation_of(image, notes)
        image.load()
        pixels, converted = _to_rgb(path, image)
    except PILLOW_FAILURES as error:
        raise ImageError(
            path, f"cannot be decoded ({type(error).__name__}: {error}); open it anew"
        ) from error
    if pixels.size == 0:
        raise ImageError(path, f"has no pixels ({image.width} x {image.height}); pass a picture")
    if orientation in ORIENTATIONS and image.format != "TIFF":
        notes.append(f"EXIF orientation {orientation} not applied: coordinates count the image's own pixels")
    return LoadedImage(pixels, (*notes, *converted, *dark_note(pixels, converted)))


def dark_note(pixels: Pixels, notes: Iterable[str] = ()) -> tuple[str, ...]:
    """A note on a picture that is nearly black but not all black, unless one of ``notes`` says so."""
    if not is_nearly_black(pixels) or any(note.startswith(NEARLY_BLACK) for note in notes):
        return ()
    return (f"{NEARLY_BLACK}: no value reaches {DARK} of 255; stretch it to the full range first",)


def is_nearly_black(pixels: Pixels) -> bool:
    """Whether a picture is so dark that its values were probably read with too wide a scale."""
    return 0 < int(pixels.max()) < DARK


def dark_pictures(count: int, total: int) -> tuple[str, ...]:
    """A note on the nearly black pictures of a set, where there are any."""
    if not count:
        return ()
    said = f"{count} of {total} pictures are {NEARLY_BLACK}: no value reaches {DARK} of 255"
    return (f"{said}; stretch them to the full range first, such as 12-bit data in files of 16 bits",)


def _to_rgb(path: Path, image: Image.Image) -> tuple[Pixels, list[str]]:
    """(H, W, 3) uint8 pixels of a loaded image of any mode, and notes on the conversion."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bits(np.asarray(image))
    if mode == "I":
        return _from_wide_integers(path, image)
    if mode == "F":
        return _from_floats(path, np.asarray(image))
    notes = []
    if mode == "CMYK":
        notes.append("converted from CMYK without its colour profile")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Dropped, not blended: what lies under transparent pixels is what was photographed.
        notes.append("transparency dropped")
    if mode in ("RGBa", "La"):
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    return np.array(image.convert("RGB")), notes


def _from_wide_integers(path: Path, image: Image.Image) -> tuple[Pixels, list[str]]:
    """32-bit integers: readable where the format itself bounds them to 16 bits."""
    values = np.asarray(image)
    if image.format not in ("PNG", "PPM") or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(path, "32-bit integer pixels have no known white; convert it to 8 or 16 bits first")
    return _from_16_bits(values)


def _from_16_bits(values: npt.NDArray[Any]) -> tuple[Pixels, list[str]]:
    notes = ["16-bit grey scaled to 8-bit (value >> 8)"]
    if 0 < values.max() < _DARK_16_BIT:
        notes.append(
            f"{NEARLY_BLACK}: no value reaches {_DARK_16_BIT} of 65535; if it holds data of fewer bits, "
            "such as 12, stretch it to 16 first"
        )
    return _grey(values >> 8), notes


def _from_floats(path: Path, values: npt.NDArray[np.float32]) -> tuple[Pixels, list[str]]:
    if not np.isfinite(values).all():
        raise ImageError(path, "float pixels with NaN or infinity; replace them before segmenting")
    if values.min() < 0 or values.max() > 255:
        raise ImageError(path, "float pixels outside 0..255 have no known white; convert it to 8 bits first")
    if values.max() <= 1:
        return _grey(np.rint(values * 255)), ["float pixels in 0..1 scaled to 8-bit"]
    return _grey(np.rint(values)), ["float pixels in 0..255 rounded to 8-bit"]


def _grey(values: npt.NDArray[np.generic]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _notes_from_warnings(said: list[warnings.WarningMessage]) -> list[str]:
    """What Pillow warned about, as notes; its own size warning is settled by ``max_pixels``."""
    kept = [w for w in said if not issubclass(w.category, Image.DecompressionBombWarning)]
    return [f"Pillow: {str(w.message).splitlines()[0]}" for w in kept if str(w.message)]
