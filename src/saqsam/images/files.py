"""Reading image files so that the pixels are those a person sees, or an error says why not.

Pillow alone turns 16-bit greys into white, ignores the rotation tag of cameras and reads NaN as black,
all without a word. Here each such case is either handled and noted, or refused.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from saqsam.errors import ImageError
from saqsam.quiet import quiet_libraries

MAX_PIXELS = 89_000_000

_limit: ContextVar[int] = ContextVar("pixel_limit", default=MAX_PIXELS)

# What Pillow's readers raise on damaged files: there is no common base class.
_PILLOW_FAILURES = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
# Raster formats only: others start external programs (EPS) or are guessed from any bytes (TGA).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
)
"""Lower-case endings by which a folder's images are found; what a file is, its content decides."""
NEARLY_BLACK = "nearly black"
"""How the note on a picture begins that was read with too wide a scale."""
_DARK_16_BIT = 1 << 12
"""Data of 12 bits in a file of 16 stays below this value."""
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_PNG_TAGS = (b"eXIf", b"exif", b"XML:com.adobe.xmp")
"""Where a PNG may say its orientation."""
_INVERSE = {**_ORIENTATIONS, 6: _ORIENTATIONS[8], 8: _ORIENTATIONS[6]}

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


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels are decoded.

    Attributes:
        stored: (height, width) in pixels as stored.
        orientation: EXIF orientation, 1 to 8; 1 where the file has none.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def displayed(self) -> tuple[int, int]:
        """(height, width) after the rotation that the orientation asks for."""
        height, width = self.stored
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(path: str | Path) -> ImageHeader | None:
    """Size and orientation of an image file; None where it cannot be read: :func:`open_image` says why."""
    max_pixels = current_pixel_limit()
    with warnings.catch_warnings(), _opening_up_to(max_pixels):
        warnings.simplefilter("ignore")
        try:
            path = _local(path)
            _refuse_non_images(path)
            with Image.open(path, formats=_readable_formats()) as image:
                stored = (image.height, image.width)
                if image.format == "TIFF":  # whose size Pillow gives as displayed
                    stored = (image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH])  # type: ignore[attr-defined]
                if image.width * image.height > max_pixels or _has_no_tags(path, image):
                    return ImageHeader(stored, 1)
                orientation = _orientation(image, [])
        except (ImageError, Image.DecompressionBombError, *_PILLOW_FAILURES):
            return None
    return ImageHeader(stored, orientation if orientation in _ORIENTATIONS else 1)


def _has_no_tags(path: Path, image: Image.Image) -> bool:
    """Whether a PNG surely has no orientation: its tags may follow the pixels, so to ask is to decode all."""
    if image.format != "PNG":
        return False
    content = path.read_bytes()
    return not any(mark in content for mark in _PNG_TAGS)


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
    path = _local(path)
    _refuse_non_images(path)
    most = current_pixel_limit() if max_pixels is None else max_pixels
    with warnings.catch_warnings(record=True) as said, _opening_up_to(most):
        warnings.simplefilter("always")
        try:
            with Image.open(path, formats=_readable_formats()) as image:
                _refuse_large(path, image.width * image.height, most)
                pixels, notes = _decode(path, image, apply_exif)
        except Image.DecompressionBombError as error:
            counted = re.search(r"\((\d+) pixels\)", str(error))
            _refuse_large(path, int(counted[1]) if counted else most + 1, most)
            raise ImageError(path, f"{error}; cut it into tiles first") from error
        except UnidentifiedImageError as error:
            raise ImageError(
                path, f"not an image in a format that is read here ({', '.join(_FORMATS)}); convert it to PNG"
            ) from error
        except _PILLOW_FAILURES as error:
            raise ImageError(
                path, f"damaged or truncated image ({type(error).__name__}: {error}); copy it again"
            ) from error
    return LoadedImage(pixels, (*notes, *_notes_from_warnings(said)))


def stated_size(path: str | Path) -> tuple[int, int]:
    """Width and height that an image file states, in pixels as stored; its pixels are not read.

    Raises:
        ImageError: no such file, or no image.
    """
    path = _local(path)
    _refuse_non_images(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_readable_formats()) as image:
                return image.size
        except (Image.DecompressionBombError, *_PILLOW_FAILURES) as error:
            raise ImageError(path, f"cannot be read as an image ({type(error).__name__})") from error


def is_url(path: str | Path) -> bool:
    """Whether this is an address on a network, also as a ``Path``, which makes one slash of two."""
    return re.match(r"(https?|ftp|s3|gs|data|file):", str(path), re.IGNORECASE) is not None


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


def what_is_there(path: Path) -> str:
    """What stands at a path where a regular file was expected, in words."""
    if path.is_dir():
        return "it is a directory"
    if path.is_fifo() or path.is_char_device() or path.is_block_device() or path.is_socket():
        return "it is a pipe or a device; write its content to a file first"
    if path.is_symlink():
        return "it is a link to a file that is not there; give the file itself"
    return "there is no such file"


@contextmanager
def _opening_up_to(max_pixels: int) -> Iterator[None]:
    """Let Pillow open what was asked for: its own bound, twice ``MAX_IMAGE_PIXELS``, is one for everybody."""
    bound = Image.MAX_IMAGE_PIXELS
    if bound is None or max_pixels <= 2 * bound:
        yield
        return
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = bound


def _refuse_non_images(path: Path) -> None:
    """Name the usual accidents before a decoder calls them all 'unidentified'."""
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


def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


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
    orientation = _orientation(image, notes)
    # libtiff writes what it finds to standard error, whoever asked, and says no more than a number here.
    quietly: AbstractContextManager[list[str]]
    quietly = quiet_libraries() if image.format == "TIFF" else nullcontext([])
    with quietly as lines:
        image.load()
    notes += [f"libtiff: {line[:120]}" for line in lines[:3]]
    pixels, converted = _to_rgb(path, image)
    notes += converted
    if orientation in _ORIENTATIONS:
        # Pillow turns TIFF files upright on its own while loading them, and no others.
        is_upright = image.format == "TIFF"
        if apply_exif != is_upright:
            turn = _ORIENTATIONS[orientation] if apply_exif else _INVERSE[orientation]
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
    orientation = _orientation(image, notes)
    try:
        image.load()
        pixels, converted = _to_rgb(path, image)
    except _PILLOW_FAILURES as error:
        raise ImageError(
            path, f"cannot be decoded ({type(error).__name__}: {error}); open it anew"
        ) from error
    if pixels.size == 0:
        raise ImageError(path, f"has no pixels ({image.width} x {image.height}); pass a picture")
    if orientation in _ORIENTATIONS and image.format != "TIFF":
        notes.append(f"EXIF orientation {orientation} not applied: coordinates count the image's own pixels")
    return LoadedImage(pixels, (*notes, *converted))


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _PILLOW_FAILURES:
        notes.append("unreadable EXIF data ignored")
        return 1
    return value if isinstance(value, int) else 1


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
    brightest = int(values.max())
    if 0 < brightest < _DARK_16_BIT:
        notes.append(
            f"{NEARLY_BLACK}: its brightest value is {brightest} of 65535; if it holds data of fewer bits, "
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
