"""Pictures of results, one file for each image, for whoever wants to look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from saqsam.errors import UsageError
from saqsam.files import atomic_write
from saqsam.images.draw import colour_of, enlarged, enlargement
from saqsam.images.labels import Labels

_MADE_BY = ("Software", "saqsam")
"""Text in a picture's file that tells that it may be replaced."""


def make_show_directory(directory: Path | None) -> None:
    """Create the folder for pictures, if one was asked for.

    Raises:
        UsageError: it is a file, or cannot be made.
    """
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--show-dir {directory}: cannot be made a folder ({error.strerror}); choose another"
        ) from error


def draw_polygons(
    pixels: npt.NDArray[np.uint8],
    polygons: Sequence[npt.NDArray[np.float64]],
    groups: Sequence[int],
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Outlines over an image, one colour for each group.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        polygons: ``(K, 2)`` corners each, x, y in pixels.
        groups: of each polygon, such as its class.
        labels: class and score of each, written as far as there is room; or None.
    """
    factor = enlargement(pixels)
    picture = Image.fromarray(enlarged(pixels, factor))
    pen = ImageDraw.Draw(picture)
    for polygon, group in zip(polygons, groups, strict=True):
        corners = [(float(x) * factor, float(y) * factor) for x, y in polygon]
        pen.line([*corners, corners[0]], fill=colour_of(group), width=2)
    if labels is not None:
        writing = Labels(picture)
        for polygon, group, label in zip(polygons, groups, labels, strict=True):
            (x0, y0), (x1, y1) = polygon.min(axis=0) * factor, polygon.max(axis=0) * factor
            writing.write(label, (float(x0), float(y0), float(x1), float(y1)), colour_of(group))
    return picture


def draw_labels(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Image.Image:
    """A label map ``(H, W)`` over its image, one colour for each class; 0 stays clear.

    Small images are enlarged by a whole factor.
    """
    classes = [int(number) for number in np.unique(labels) if number]
    tinted = pixels.astype(np.float32)
    for number in classes:
        inside = labels == number
        tinted[inside] += 0.6 * (np.array(colour_of(number), np.float32) - tinted[inside])
    return Image.fromarray(enlarged(tinted.round().astype(np.uint8), enlargement(pixels)))


def save_picture(directory: Path, name: str, picture: Image.Image, taken: set[str] | None = None) -> Path:
    """Write ``picture`` as ``<directory>/<name without ending>.png`` and return that path.

    A picture of an earlier run is replaced; a file that this function did not write is left alone, and the
    picture gets a number: the folder may be one of photographs.

    Args:
        directory: existing.
        name: of the image, with folders where it has some.
        picture: what to write.
        taken: names of this run so far, which are not replaced; the new one is added. Without it, the file is
            this one, whatever was there.
    """
    path = directory / (f"{Path(name).stem}.png" if taken is None else _free_name(directory, name, taken))
    text = PngInfo()
    text.add_text(*_MADE_BY)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text)
    return path


def _free_name(directory: Path, file_name: str, taken: set[str]) -> str:
    """A name of its own for each image: its stem, with folders where needed and a number if still taken."""
    listed = Path(file_name)
    stem = listed.stem
    if f"{stem}.png" in taken:
        stem = "_".join(part for part in listed.with_suffix("").parts if part not in ("/", "..", "."))
    name, number = f"{stem}.png", 2
    while name in taken or not _may_be_replaced(directory / name):
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name)
    return name


def _may_be_replaced(path: Path) -> bool:
    """Whether nothing is there, or a picture of ``save_picture``."""
    if not path.exists():
        return True
    key, value = _MADE_BY
    try:
        with Image.open(path) as found:
            return found.info.get(key) == value
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return False
