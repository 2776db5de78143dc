"""What has to be known of Pillow: which formats it is let open, how large, and how its readers fail."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

# What Pillow's readers raise on damaged files: there is no common base class.
PILLOW_FAILURES = (
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
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")


@contextmanager
def opening_up_to(max_pixels: int) -> Iterator[None]:
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


def check_sums(path: Path, image: Image.Image) -> None:
    """Hold the parts of a PNG against their checksums, which Pillow does only when asked.

    A flipped bit in a PNG mostly ends in other pixels, and not in an error. It costs a twentieth of decoding.

    Args:
        path: the file.
        image: it, opened.

    Raises:
        SyntaxError, ValueError, OSError, struct.error: the file is damaged.
    """
    if image.format == "PNG":
        with Image.open(path, formats=("PNG",)) as again:
            again.verify()


def readable_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
