"""Oriented detection: upright boxes in, SAM masks, smallest rectangles out, DOTA's average precision.

The procedure of "SAM-RBox", the comparison method of H2RBox-v2 (Yu et al. 2023): each upright box prompts
one mask, the mask's smallest rectangle is the oriented box, its score is the detector's; boxes of one class
that overlap by more than 0.1 are duplicates. A mask without a pixel gives the upright box back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saqsam.datasets.bad_entries import BadEntries, LeftOut
from saqsam.datasets.instances import ImageRecord, open_listed
from saqsam.errors import ImageError
from saqsam.images.files import Pixels, dark_pictures, is_nearly_black
from saqsam.prompts.from_dataset import ImagePrompts
from saqsam.prompts.plausible import implausible_boxes
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import predict_parts
from saqsam.tasks.dota_patches import Patching, Window, assigned
from saqsam.tasks.oriented_ap import ClassPrecision, OrientedDetection, oriented_ap
from saqsam.tasks.oriented_boxes import (
    Corners,
    box_corners,
    mask_corners,
    oriented_iou,
    oriented_nms,
    upright,
)
from saqsam.tasks.oriented_set import OrientedSet, asked_objects
from saqsam.torch_state import as_documented

if TYPE_CHECKING:
    from saqsam.sam import Sam

DUPLICATES = 0.1
"""Overlap above which two boxes of a class are one object, as in DOTA's merging of patches."""

Show = Callable[[ImageRecord, Pixels, Sequence[OrientedDetection]], None]


@dataclass(frozen=True)
class OrientedResult:
    """Figures of one model on one set.

    Attributes:
        model: its name.
        bits: ``float`` or for example ``w4a4``.
        prompts: where the upright boxes came from.
        images: images evaluated.
        instances: boxes asked for.
        AP50: mean over classes with objects of the VOC 2007 average precision, DOTA's figure; -1 if none.
        AP50_area: the same by the area under the curve.
        classes: figures by class name, classes without objects and detections left out.
        mIoU: with boxes from annotations, the mean overlap of each oriented box with its object's, before
            duplicates are removed; None with detections.
        detections: oriented boxes that stayed.
        empty_masks: prompts whose mask had no pixel; their upright box was taken.
        nan_count: masks or scores that were not finite; they count as not found.
        clipped_boxes: boxes that reached past their image.
        seconds: time spent in the model, from opening the image to masks.
        notes: what was accepted, supplied or decided on the way, and what looks implausible, one line for
            each kind.
        left_out: entries and images that could not be used.
    """

    model: str
    bits: str
    prompts: str
    images: int
    instances: int
    AP50: float
    AP50_area: float
    classes: Mapping[str, ClassPrecision]
    mIoU: float | None
    detections: int
    empty_masks: int
    nan_count: int
    clipped_boxes: int
    seconds: float
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


class _Tally:
    """What is added up over images."""

    def __init__(self) -> None:
        self.detections: list[OrientedDetection] = []
        self.overlaps: list[float] = []
        self.instances = self.empty = self.nan_count = self.clipped = self.dark = 0
        self.seconds = 0.0


@as_documented
def evaluate_oriented(
    sam: Sam,
    dataset: OrientedSet,
    prompts: Mapping[int, ImagePrompts],
    source: str = "boxes",
    patching: Patching | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    show: Show | None = None,
    bad: BadEntries | None = None,
) -> tuple[OrientedResult, list[OrientedDetection]]:
    """Turn every upright box into an oriented one and measure them.

    Args:
        sam: model to evaluate.
        dataset: images and objects.
        prompts: by image id, from ``oriented_prompts``.
        source: name of the prompts, for the result; ``"boxes"`` also measures ``mIoU``.
        patching: how large images are cut.
        progress: called with images done and in total.
        show: called with each image, its pixels and its oriented boxes.
        bad: what becomes of images that cannot be read, and what was left out before; None stops at them.

    Returns:
        The figures, and the oriented boxes for whoever writes them.

    Raises:
        ImageError: a listed image cannot be read, or has another size than its annotations say.
    """
    tally = _Tally()
    bad = BadEntries(offered=False) if bad is None else bad
    images = dataset.listing.images
    read = []
    for done, image in enumerate(images):
        progress(done, len(images))
        asked = prompts.get(image.id)
        try:
            if asked is not None:
                objects = asked_objects(image, dataset.objects[image.id]) if source == "boxes" else []
                truth = [one.corners for one in objects]
                _evaluate_image(tally, sam, image, asked, truth, patching or Patching(), show)
            elif show is not None:
                show(image, open_listed(image).pixels, [])
        except ImageError as error:
            bad.leave_out_image(error)
        else:
            read.append(image)
    progress(len(images), len(images))
    bad.refuse_nothing(len(read))
    dataset = dataset.of(read)
    classes = {
        name: oriented_ap(dataset.objects, tally.detections, key)
        for key, name in dataset.listing.categories.items()
    }
    counted = [one for one in classes.values() if one.objects]
    result = OrientedResult(
        model=sam.name,
        bits=sam.bits,
        prompts=source,
        images=len(read),
        instances=tally.instances,
        AP50=float(np.mean([one.AP50 for one in counted])) if counted else -1.0,
        AP50_area=float(np.mean([one.AP50_area for one in counted])) if counted else -1.0,
        classes={name: one for name, one in classes.items() if one.objects or one.detections},
        mIoU=float(np.mean(tally.overlaps)) if tally.overlaps else None,
        detections=len(tally.detections),
        empty_masks=tally.empty,
        nan_count=tally.nan_count,
        clipped_boxes=tally.clipped,
        seconds=round(tally.seconds, 3),
        notes=bad.notes_beside(
            (
                *dataset.listing.notes,
                *_implausible(dataset, prompts, source),
                *dark_pictures(tally.dark, len(read)),
            )
        ),
        left_out=tuple(bad.left_out),
    )
    return result, tally.detections


def _implausible(dataset: OrientedSet, prompts: Mapping[int, ImagePrompts], source: str) -> tuple[str, ...]:
    objects = {
        key: [(upright(one.corners[None])[0].tolist(), one.category_id) for one in group]
        for key, group in dataset.objects.items()
    }
    return implausible_boxes(dataset.listing, prompts, source, objects)


def _evaluate_image(
    tally: _Tally,
    sam: Sam,
    image: ImageRecord,
    asked: ImagePrompts,
    truth: Sequence[Corners],
    patching: Patching,
    show: Show | None,
) -> None:
    start = time.perf_counter()
    pixels = open_listed(image).pixels
    tally.dark += is_nearly_black(pixels)
    boxes = np.asarray(asked.prompts.boxes, dtype=np.float64)
    corners: dict[int, Corners] = {}
    for window, rows in assigned(boxes, image.height, image.width, patching).items():
        corners |= _in_window(tally, sam, pixels, window, boxes, rows)
    tally.seconds += time.perf_counter() - start
    tally.instances += len(boxes)
    tally.clipped += asked.clipped
    for row, polygon in enumerate(truth):
        found = corners.get(row)
        tally.overlaps.append(0.0 if found is None else float(oriented_iou(found[None], polygon[None])[0, 0]))
    kept = _without_duplicates(image.id, asked, corners)
    tally.detections += kept
    if show is not None:
        show(image, pixels, kept)


def _in_window(
    tally: _Tally,
    sam: Sam,
    pixels: Pixels,
    window: Window,
    boxes: np.ndarray[Any, Any],
    rows: Sequence[int],
) -> dict[int, Corners]:
    """The oriented box, in pixels of the image, of each row whose mask is finite."""
    x0, y0, x1, y1 = window
    corner = np.array([x0, y0], dtype=np.float64)
    shifted = (boxes[rows] - np.tile(corner, 2)).astype(np.float32)
    prompts = Prompts(boxes=torch.from_numpy(shifted))
    found: dict[int, Corners] = {}
    waiting = iter(rows)
    for part in predict_parts(sam.model, np.ascontiguousarray(pixels[y0:y1, x0:x1]), prompts):
        finite = np.isfinite(part.iou_scores) & part.low_res_logits.isfinite().flatten(1).all(1).numpy()
        tally.nan_count += part.nan_count
        for mask, good in zip(part.masks, finite, strict=True):
            row = next(waiting)
            if not good:
                continue
            corners = mask_corners(mask)
            tally.empty += corners is None
            found[row] = box_corners(boxes[row]) if corners is None else corners + corner
    return found


def _without_duplicates(
    image_id: int, asked: ImagePrompts, corners: Mapping[int, Corners]
) -> list[OrientedDetection]:
    """Oriented boxes of one image, class by class, best first."""
    kept = []
    for category in sorted(set(asked.category_ids)):
        rows = [row for row in sorted(corners) if asked.category_ids[row] == category]
        if not rows:
            continue
        scores = [asked.scores[row] for row in rows]
        table = np.stack([corners[row] for row in rows])
        kept += [
            OrientedDetection(image_id, category, table[index], scores[index])
            for index in oriented_nms(table, scores, DUPLICATES)
        ]
    return kept
