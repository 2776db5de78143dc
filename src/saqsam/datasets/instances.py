"""A validated set of images with outlined objects, as the instance task and the prompts see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.masks import Mask, Rle, decode_mask, mask_box, rasterise
from saqsam.errors import ImageError, UnknownFrame
from saqsam.images.files import LoadedImage, open_image
from saqsam.images.headers import read_header


@dataclass(frozen=True)
class ImageRecord:
    """One listed image; ``width`` and ``height`` in pixels are what its annotations count.

    ``apply_exif`` says in which frame they do, where its EXIF tag turns it: True as displayed, False as
    stored, None where that is not decided, or not needed; see :mod:`saqsam.datasets.exif`.
    """

    id: int
    path: Path
    file_name: str
    width: int
    height: int
    apply_exif: bool | None = None


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        id: unique in its set, at least 1.
        image_id: of the image it is on.
        category_id: key of ``InstanceSet.categories``.
        area: in pixels, as the file states it (COCO sorts objects into small, medium and large by it).
        iscrowd: a region of many objects: never prompted, neither right nor wrong in AP.
        height: of its image in pixels.
        width: of its image in pixels.
        outline: the ``segmentation`` of the file in COCO's own form, already validated; None where a set
            was read for its boxes alone.
        stated_box: ``x0, y0, x1, y1`` from the file's ``bbox``, or None where it has none with an area.
        place: its index in the file's list of annotations.
    """

    id: int
    image_id: int
    category_id: int
    area: float
    iscrowd: bool
    height: int
    width: int
    outline: Any = field(repr=False)
    stated_box: tuple[float, float, float, float] | None = None
    place: int = -1

    @cached_property
    def segmentation(self) -> Rle:
        """The mask as a compressed run-length code, rasterised as COCO does."""
        return rasterise(self.outline, self.height, self.width)

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """``x0, y0, x1, y1`` in pixels: the file's box, else the one around the mask (all 0 if empty)."""
        return self.stated_box or mask_box(self.segmentation)

    def mask(self) -> Mask:
        """(H, W) bool."""
        return decode_mask(self.segmentation)


@dataclass(frozen=True)
class InstanceSet:
    """Images, objects and categories of one annotation file, all validated.

    Attributes:
        path: the annotation file.
        images: in the order of the file.
        categories: id to name.
        instances: image id to its objects in the order of the file; images without objects may lack a key.
        notes: what was repaired while reading, one short sentence each.
        all_images: ids of every image of the file, also of those that ``first`` left out; a detections
            file may speak of them. Empty means the ids of ``images``.
    """

    path: Path
    images: tuple[ImageRecord, ...]
    categories: Mapping[int, str]
    instances: Mapping[int, Sequence[Instance]] = field(repr=False)
    notes: tuple[str, ...] = ()
    all_images: frozenset[int] = frozenset()

    @property
    def known_images(self) -> frozenset[int]:
        """Ids of every image of the annotation file."""
        return self.all_images or frozenset(image.id for image in self.images)

    def __len__(self) -> int:
        return len(self.images)

    def instances_of(self, image_id: int) -> tuple[Instance, ...]:
        """The objects on one image."""
        return tuple(self.instances.get(image_id, ()))

    def first(self, count: int) -> InstanceSet:
        """The same set with only its first ``count`` images."""
        return self.only(self.images[:count])

    def only(self, images: Sequence[ImageRecord]) -> InstanceSet:
        """The same set with only some of its images."""
        kept = tuple(images)
        instances = {image.id: self.instances_of(image.id) for image in kept}
        return InstanceSet(self.path, kept, self.categories, instances, self.notes, self.known_images)


def open_listed(record: ImageRecord) -> LoadedImage:
    """Open an image in the pixel frame of its annotations.

    That is ``record.apply_exif``. Where it is None, an image that an EXIF tag turns must tell by its size.

    Raises:
        ImageError: as :func:`saqsam.images.files.open_image`, or it has another size than annotated.
        UnknownFrame: it is turned, and its size does not tell the frame.
    """
    apply_exif = _frame_of(record) if record.apply_exif is None else record.apply_exif
    opened = open_image(record.path, apply_exif=apply_exif)
    height, width = opened.pixels.shape[:2]
    if (height, width) == (record.height, record.width):
        return opened
    raise ImageError(
        record.path,
        f"is {width} x {height} pixels, but its annotations say {record.width} x {record.height}; "
        "use the image that was annotated",
    )


def can_be_read(record: ImageRecord, bad: BadEntries) -> bool:
    """False for an image that does not open in the frame of its annotations, if such images are left out."""
    if not bad.skip:
        return True  # whoever opens it says what is wrong
    try:
        open_listed(record)
    except ImageError as error:
        bad.leave_out_image(error)
        return False
    return True


def _frame_of(record: ImageRecord) -> bool:
    header = read_header(record.path)
    size = (record.height, record.width)
    if header is None or header.orientation == 1 or size not in (header.stored, header.displayed):
        return False
    if header.stored == header.displayed:
        problem = f"its EXIF orientation {header.orientation} turns it, and its size does not tell whether"
        raise UnknownFrame(
            record.path,
            [f"{problem} annotations follow; decide with saqsam.datasets.framed.framed, or pass --exif"],
        )
    return size == header.displayed
