"""A set of annotated images with the frame of each decided, so that everybody opens them alike."""

from __future__ import annotations

from dataclasses import replace

from saqsam.datasets.exif import Picture, decide, table
from saqsam.datasets.exif_words import AUTO
from saqsam.datasets.instances import ImageRecord, Instance, InstanceSet
from saqsam.datasets.masks import outline_problem
from saqsam.errors import AnnotationError
from saqsam.images.headers import ImageHeader


def framed(dataset: InstanceSet, exif: str = AUTO, *, limit: int | None = None) -> InstanceSet:
    """The set, or its first ``limit`` images, with ``ImageRecord.apply_exif`` decided and a note on it.

    Args:
        dataset: as read. Boxes and declared sizes of all its images are evidence.
        exif: ``"auto"``, ``"stored"`` or ``"displayed"``; see :func:`saqsam.datasets.exif.decide`. Where one
            of the latter two is asked for and an image declares its size in the other frame, its sides are
            exchanged: tools that write boxes as displayed and the size as stored are common.
        limit: keep only the first images.

    Raises:
        UnknownFrame: a rotated or mirrored image is there, and the set does not tell.
        AnnotationError: with exchanged sides, a mask no longer fits its image.
    """
    count = len(dataset.images) if limit is None else min(limit, len(dataset.images))
    pictures = [
        Picture(
            image.path,
            (image.height, image.width),
            table(one.stated_box for one in dataset.instances_of(image.id) if one.stated_box is not None),
        )
        for image in dataset.images
    ]
    found = decide(pictures, dataset.path, exif, asked=range(count))
    kept = dataset if limit is None else dataset.first(count)
    if not found.notes:
        return kept
    records, instances, turned = [], dict(kept.instances), 0
    for record, apply_exif, header in zip(kept.images, found.apply_exif, found.headers, strict=True):
        decided = replace(record, apply_exif=apply_exif)
        if apply_exif is not None and header is not None and _is_turned(decided, header):
            decided = replace(decided, width=record.height, height=record.width)
            instances[record.id] = tuple(_turned(one, decided, kept) for one in kept.instances_of(record.id))
            turned += 1
        records.append(decided)
    notes = (*kept.notes, *found.notes)
    if turned:
        notes += (
            f"EXIF: {turned} of them declare their size in the other frame; width and height exchanged",
        )
    return replace(kept, images=tuple(records), instances=instances, notes=notes)


def _is_turned(record: ImageRecord, header: ImageHeader) -> bool:
    """Whether the declared size is the image's in the frame that was not chosen, and in that only."""
    chosen, other = header.displayed, header.stored
    if not record.apply_exif:
        chosen, other = other, chosen
    return chosen != other == (record.height, record.width)


def _turned(one: Instance, record: ImageRecord, dataset: InstanceSet) -> Instance:
    fault = None if one.outline is None else outline_problem(one.outline, record.height, record.width)
    if fault is not None:
        problem = f"annotation id {one.id} on {record.file_name}, whose sides were exchanged as --exif asks"
        raise AnnotationError(dataset.path, [f"{problem}: {fault}; ask for the other frame"])
    return replace(one, height=record.height, width=record.width)
