"""The rotation tag of cameras: what EXIF says of how an image is held."""

from __future__ import annotations

from PIL import Image

from saqsam.images.pillow import PILLOW_FAILURES

_ORIENTATION_TAG = 0x0112

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright whose tag is this."""
INVERSE = {**ORIENTATIONS, 6: ORIENTATIONS[8], 8: ORIENTATIONS[6]}
"""How an upright image is turned back to what is stored."""


def orientation_of(image: Image.Image, notes: list[str]) -> int:
    """EXIF orientation of an opened image, 1 where it has none; what cannot be read is added to the notes."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except PILLOW_FAILURES:
        notes.append("unreadable EXIF data ignored")
        return 1
    return value if isinstance(value, int) else 1
