"""What an image file says of itself before its pixels are decoded: its size, and its orientation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from saqsam.errors import ImageError
from saqsam.images.files import current_pixel_limit, image_file
from saqsam.images.orientation import ORIENTATIONS, orientation_of
from saqsam.images.pillow import PILLOW_FAILURES, opening_up_to, readable_formats

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_PNG_TAGS = (b"eXIf", b"exif", b"XML:com.adobe.xmp")
"""Where a PNG may say its orientation."""


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
    with warnings.catch_warnings(), opening_up_to(max_pixels):
        warnings.simplefilter("ignore")
        try:
            path = image_file(path)
            with Image.open(path, formats=readable_formats()) as image:
                stored = (image.height, image.width)
                if image.format == "TIFF":  # whose size Pillow gives as displayed
                    stored = (image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH])  # type: ignore[attr-defined]
                if image.width * image.height > max_pixels or _has_no_tags(path, image):
                    return ImageHeader(stored, 1)
                orientation = orientation_of(image, [])
        except (ImageError, Image.DecompressionBombError, *PILLOW_FAILURES):
            return None
    return ImageHeader(stored, orientation if orientation in ORIENTATIONS else 1)


def _has_no_tags(path: Path, image: Image.Image) -> bool:
    """Whether a PNG surely has no orientation: its tags may follow the pixels, so to ask is to decode all."""
    if image.format != "PNG":
        return False
    content = path.read_bytes()
    return not any(mark in content for mark in _PNG_TAGS)


def stated_size(path: str | Path) -> tuple[int, int]:
    """Width and height that an image file states, in pixels as stored; its pixels are not read.

    Raises:
        ImageError: no such file, or no image.
    """
    path = image_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=readable_formats()) as image:
                return image.size
        except (Image.DecompressionBombError, *PILLOW_FAILURES) as error:
            raise ImageError(path, f"cannot be read as an image ({type(error).__name__})") from error
