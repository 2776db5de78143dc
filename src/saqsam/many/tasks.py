"""The jobs: from one image to its row, by the same code as in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from saqsam.errors import ImageError
from saqsam.images.files import is_nearly_black
from saqsam.many.work import Item, Row
from saqsam.sam import Sam
from saqsam.segment.zoom import segment_parts
from saqsam.tasks.instance import ImageFigures, image_figures


@dataclass(frozen=True)
class SegmentJob:
    """COCO results of one image's prompts.

    Attributes:
        load: makes the model; must travel between processes (a partial of a module's function does).
    """

    load: Callable[[], Sam]

    def start(self) -> Callable[[Item], Row]:
        """Load the model."""
        sam = self.load()
        return lambda item: segment_row(sam, item)


@dataclass(frozen=True)
class EvaluateJob:
    """Figures of one image of a COCO-format set.

    Attributes:
        load: as for ``SegmentJob``.
        load_reference: makes the model whose masks agreement is measured with, if any.
    """

    load: Callable[[], Sam]
    load_reference: Callable[[], Sam] | None = None

    def start(self) -> Callable[[Item], Row]:
        """Load the models."""
        sam = self.load()
        reference = None if self.load_reference is None else self.load_reference()
        return lambda item: evaluate_row(sam, item, reference)


def segment_row(sam: Sam, item: Item) -> Row:
    """``results``, ``clipped`` boxes, ``encoder_passes`` and ``nan_count`` of one image.

    ``asked`` says if it had prompts, ``dark`` if it was read and is nearly black.
    """
    row = _row(item) | {"asked": item.asked is not None, "clipped": 0, "nan_count": 0, "results": []}
    row |= {"encoder_passes": 0, "dark": False}
    if item.asked is None:
        return row
    try:
        pixels = item.image.pixels()
    except ImageError as error:
        return row | {"unreadable": error.reason, "file": error.path}
    row["dark"] = is_nearly_black(pixels)
    row["clipped"] = item.asked.clipped
    start = 0
    for part in segment_parts(sam.model, pixels, item.asked.prompts, sam.answering()):
        row["encoder_passes"] += part.encoder_passes
        rows = slice(start, start + len(part))
        start += len(part)
        row["nan_count"] += part.nan_count
        if not part.nan_count:
            row["results"] += part.to_coco(
                item.image.id, item.asked.category_ids[rows], item.asked.scores[rows]
            )
    return row


def evaluate_row(sam: Sam, item: Item, reference: Sam | None = None) -> Row:
    """``figures`` of one image: the fields of ``ImageFigures``; None for an image that cannot be read."""
    record = item.image.record
    if record is None:
        raise ValueError("an image is measured by its entry in the annotation file")
    try:
        figures = image_figures(sam, record, item.asked, item.objects, reference)
    except ImageError as error:
        return _row(item) | {"unreadable": error.reason, "file": error.path, "figures": None}
    return _row(item) | {"figures": asdict(figures)}


def figures_of(rows: Sequence[Row]) -> list[ImageFigures]:
    """The figures in evaluated rows, bad images left out."""
    return [ImageFigures(**row["figures"]) for row in rows if row["figures"] is not None]


def unreadable(rows: Sequence[Row]) -> list[ImageError]:
    """One error for each image that could not be read."""
    return [ImageError(row["file"], row["unreadable"]) for row in rows if row["unreadable"] is not None]


def _row(item: Item) -> Row:
    return {"image_id": item.image.id, "file": str(item.image.path), "unreadable": None}
