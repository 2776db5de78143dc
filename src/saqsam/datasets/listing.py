"""Which images a detector is run on, and the ids under which its boxes are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saqsam.datasets.exif_words import DISPLAYED, STORED, check_exif
from saqsam.datasets.instances import ImageRecord, InstanceSet, open_listed
from saqsam.errors import UsageError
from saqsam.images.files import IMAGE_SUFFIXES, Pixels, open_image
from saqsam.images.folder import image_files
from saqsam.images.headers import read_header


@dataclass(frozen=True)
class ListedImage:
    """One image to detect on.

    Attributes:
        id: its ``image_id`` in the results.
        path: its file.
        record: its entry in the annotation file, where there is one.
        apply_exif: without a record: seen as displayed (True) or as stored.
    """

    id: int
    path: Path
    record: ImageRecord | None = None
    apply_exif: bool = True

    def pixels(self) -> Pixels:
        """``(H, W, 3)`` uint8 RGB, in the pixel frame of the annotations; without any, by ``apply_exif``.

        Raises:
            ImageError: the file cannot be read faithfully, or has another size than annotated.
        """
        if self.record is not None:
            return open_listed(self.record).pixels
        return open_image(self.path, apply_exif=self.apply_exif).pixels

    def stored_size(self) -> tuple[int, int]:
        """Height and width in pixels as stored, the frame in which COCO annotates.

        Raises:
            ImageError: the file cannot be read faithfully.
        """
        height, width = open_image(self.path, apply_exif=False).pixels.shape[:2]
        return height, width


def from_annotations(dataset: InstanceSet) -> list[ListedImage]:
    """The images of an annotation file, in its order and with its ids."""
    return [ListedImage(record.id, record.path, record) for record in dataset.images]


def in_frame(images: Sequence[ListedImage], exif: str) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Images without annotations in one frame, and a note if any of them is rotated.

    Args:
        images: without records.
        exif: ``"auto"`` is ``"displayed"`` here: there are no annotations whose frame had to be met.

    Raises:
        UsageError: no such word.
    """
    chosen = STORED if check_exif(exif) == STORED else DISPLAYED
    placed = [replace(image, apply_exif=chosen == DISPLAYED) for image in images]
    headers = [read_header(image.path) for image in images]
    rotated = sum(header is not None and header.orientation != 1 for header in headers)
    if not rotated:
        return placed, ()
    what = f"{rotated} of {len(images)} images are rotated or mirrored by EXIF"
    return placed, (f"EXIF: {what}; coordinates count pixels as {chosen} (--exif {chosen})",)


def from_folder(folder: Path) -> list[ListedImage]:
    """The images of a folder by name, not looking into folders inside it; hidden files do not count.

    Names that are all different numbers, like COCO's ``000000000139.jpg``, are the ids; otherwise images are
    counted from 1.

    Raises:
        UsageError: there is no image in it.
    """
    paths = image_files(folder, recursive=False)
    if not paths:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"IMAGES {folder}: holds no images ({known}); give the folder with them")
    stems = [path.stem for path in paths]
    numbered = all(stem.isascii() and stem.isdigit() and len(stem) <= 15 for stem in stems)
    if numbered and len({int(stem) for stem in stems}) == len(stems):
        return sorted((ListedImage(int(path.stem), path) for path in paths), key=lambda image: image.id)
    return [ListedImage(index + 1, path) for index, path in enumerate(paths)]
