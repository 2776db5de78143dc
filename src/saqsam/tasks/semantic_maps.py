"""Label maps: one class number for each pixel, as a grey or indexed PNG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from saqsam.datasets.bad_entries import BadEntries, Fault, problem
from saqsam.datasets.exif import Picture, decide
from saqsam.datasets.exif_words import AUTO
from saqsam.datasets.listing import ListedImage, from_folder
from saqsam.errors import ImageError, UsageError
from saqsam.images.files import MAX_PIXELS, Pixels
from saqsam.images.headers import read_header

LabelMap = npt.NDArray[np.int64]
"""``(H, W)``; 0 often means "none of the classes", as in ADE20K."""

MOST_CLASSES = 4096
_MODES = ("L", "P", "1", "I", "I;16")


@dataclass(frozen=True)
class SemanticSet:
    """Images with their true label maps.

    Attributes:
        images: in the order of their names.
        truth: image id to the file of its label map.
        path: folder of the label maps.
        notes: what was decided while reading, one sentence each.
    """

    images: tuple[ListedImage, ...]
    truth: Mapping[int, Path]
    path: Path
    notes: tuple[str, ...] = ()

    def first(self, count: int) -> SemanticSet:
        """The same set with only its first ``count`` images."""
        return replace(self, images=self.images[:count])


def read_semantic(
    annotations: str | Path,
    images: str | Path,
    *,
    exif: str = AUTO,
    limit: int | None = None,
    bad: BadEntries | None = None,
) -> SemanticSet:
    """Pair the images of a folder with label maps ``<image name>.png`` of another.

    Args:
        annotations: folder of the label maps.
        images: folder of the images.
        exif: whether label maps lie on images as ``"stored"`` or as ``"displayed"``; ``"auto"`` decides by
            their sizes, see :func:`saqsam.datasets.exif.decide`.
        limit: the first images only; the label maps of others need not exist.
        bad: where images without a label map are listed, if it leaves them out; None stops at them.

    Raises:
        UsageError: no images, or images without a label map; the first are named.
        UnknownFrame: a rotated or mirrored image is there, and no size tells the frame.
    """
    images, annotations = Path(images), Path(annotations)
    listed = from_folder(images)
    if bad is not None and bad.skip:
        listed = _with_map(listed, annotations, limit, bad)
    listed = listed[:limit]
    truth = map_files(annotations, listed, "--annotations")
    pictures = [Picture(image.path, _map_size(truth[image.id])) for image in listed]
    found = decide(pictures, annotations, exif)
    placed = (replace(one, apply_exif=bool(told)) for one, told in zip(listed, found.apply_exif, strict=True))
    return SemanticSet(tuple(placed), truth, annotations, found.notes)


def _map_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a label map; None where it cannot be read, which is said when its turn comes."""
    header = read_header(path)
    return None if header is None else header.stored


def _with_map(
    images: list[ListedImage], folder: Path, limit: int | None, bad: BadEntries
) -> list[ListedImage]:
    """The first images that have a label map; those passed on the way are left out."""
    found: list[ListedImage] = []
    missing: list[Fault] = []
    for image in images:
        if limit is not None and len(found) == limit:
            break
        path = folder / f"{image.path.stem}.png"
        if path.is_file():
            found.append(image)
        else:
            missing.append(Fault(path.name, problem("there is no such label map")))
    if not found:
        raise UsageError(f"{folder}: no image has a label map there; they are named <image name>.png")
    bad.resolve(folder, missing)
    return found


def map_files(folder: Path, images: list[ListedImage], option: str) -> dict[int, Path]:
    """The label map of each image, ``<image name>.png``.

    Raises:
        UsageError: some have none.
    """
    files = {image.id: folder / f"{image.path.stem}.png" for image in images}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        without = f"{len(missing)} images have no label map there ({some})"
        raise UsageError(f"{option} {folder}: {without}; add them, or use --on-error skip")
    return files


def open_semantic_image(image: ListedImage) -> Pixels:
    """``(H, W, 3)`` uint8 in the frame of its label map, which :func:`read_semantic` has decided."""
    return image.pixels()


def read_label_map(path: str | Path, shape: tuple[int, int]) -> LabelMap:
    """Read the label map of an image.

    Args:
        path: PNG of class numbers: grey of 8 or 16 bits, or indexed colours, whose indices count.
        shape: (height, width) of the image.

    Raises:
        ImageError: unreadable, a colour picture, another size, or a number of 4096 or above.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in _MODES:
                problem = f"is a {picture.mode} picture; a label map holds one class number a pixel"
                raise ImageError(path, f"{problem} (grey or indexed PNG)")
            if (picture.height, picture.width) != shape or picture.height * picture.width > MAX_PIXELS:
                sizes = f"{picture.width} x {picture.height} pixels, its image {shape[1]} x {shape[0]}"
                raise ImageError(path, f"has {sizes}")
            labels = np.array(picture).astype(np.int64)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(path, f"is no readable PNG ({str(error).splitlines()[0][:100]})") from error
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        problem = f"class number {int(labels.max())}: expected 0 to {MOST_CLASSES - 1}"
        raise ImageError(
            path, f"{problem}; write 255 for pixels without a class, and pass --ignore-label 255"
        )
    return labels


def noisy_labels(
    truth: LabelMap, generator: np.random.Generator, *, cell: int = 8, wrong: float = 0.15
) -> LabelMap:
    """A label map as a coarse, sometimes mistaken segmenter would make it: the embedded test bed's input.

    Each square cell takes the label of one random pixel near its middle; a share of the cells takes some
    other label of the image instead.

    Args:
        truth: ``(H, W)``.
        generator: everything random comes from it.
        cell: side of a cell in pixels.
        wrong: share of mistaken cells.
    """
    height, width = truth.shape
    rows, columns = -(-height // cell), -(-width // cell)
    y = np.arange(rows)[:, None] * cell + generator.integers(0, cell, (rows, columns))
    x = np.arange(columns)[None] * cell + generator.integers(0, cell, (rows, columns))
    coarse = truth[np.minimum(y, height - 1), np.minimum(x, width - 1)]
    present = np.unique(truth)
    mistaken = generator.random((rows, columns)) < wrong
    coarse = np.where(mistaken, generator.choice(present, (rows, columns)), coarse)
    large: Any = np.repeat(np.repeat(coarse, cell, 0), cell, 1)
    noisy: LabelMap = large[:height, :width]
    return noisy
