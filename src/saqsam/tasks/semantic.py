"""Semantic segmentation: a segmenter's label maps, their edges redrawn by everything mode, mIoU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saqsam.datasets.bad_entries import BadEntries, LeftOut
from saqsam.errors import ImageError, UsageError
from saqsam.everything import EverythingOptions, segment_everything
from saqsam.images.files import Pixels, dark_pictures, is_nearly_black
from saqsam.tasks.semantic_iou import Confusion, SemanticFigures
from saqsam.tasks.semantic_maps import (
    LabelMap,
    SemanticSet,
    map_files,
    noisy_labels,
    open_semantic_image,
    read_label_map,
)
from saqsam.tasks.semantic_model import PREFIX, load_semantic
from saqsam.tasks.semantic_notes import label_notes
from saqsam.tasks.semantic_vote import refined
from saqsam.torch_state import as_documented

if TYPE_CHECKING:
    from saqsam.sam import Sam

NOISY = "noisy"
"""Label maps made from the truth by ``noisy_labels``: no segmenter needed."""

SSA_OPTIONS = EverythingOptions(
    points_per_side=64,
    pred_iou_thresh=0.86,
    stability_score_thresh=0.92,
    crop_n_layers=1,
    crop_n_points_downscale_factor=2,
    min_mask_region_area=100,
)
"""Everything mode as Semantic Segment Anything uses it: about 8000 clicks an image."""

SSA_PRESETS = {"paper": SSA_OPTIONS, "fast": replace(SSA_OPTIONS, points_per_side=32, crop_n_layers=0)}
"""``fast`` clicks 32 x 32 times on the whole image: an eighth of the clicks, one encoder pass for five."""

Start = Callable[[int, Pixels, LabelMap], LabelMap]
"""Label map to start from, of image id, pixels and truth."""

Show = Callable[[str, Pixels, LabelMap, LabelMap, LabelMap], None]
"""Called with file name, pixels, starting map, refined map and truth."""


@dataclass(frozen=True)
class ClassIoU:
    """IoU of one class with the starting maps and with the refined ones; None where it does not occur."""

    start: float | None
    refined: float | None
    pixels: int


@dataclass(frozen=True)
class SemanticResult:
    """Figures of one model on one set.

    Attributes:
        model: its name.
        bits: ``float`` or for example ``w4a4``.
        labels: where the starting maps came from.
        images: images evaluated.
        masks: that everything mode found on them.
        mIoU: of the refined maps, mean over classes, 0 to 1.
        pixel_accuracy: of the refined maps.
        start_mIoU: of the starting maps.
        start_pixel_accuracy: of the starting maps.
        classes: figures by class number.
        nan_count: predicted IoUs that were not finite; their masks are left out.
        seconds: time spent in everything mode and voting.
        notes: what was decided on the way, and what looks implausible, one sentence each.
        left_out: images that could not be used, or had no label map.
    """

    model: str
    bits: str
    labels: str
    images: int
    masks: int
    mIoU: float
    pixel_accuracy: float
    start_mIoU: float
    start_pixel_accuracy: float
    classes: dict[int, ClassIoU]
    nan_count: int
    seconds: float
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


@as_documented
def starting_maps(
    source: str,
    dataset: SemanticSet,
    *,
    device: str = "cpu",
    seed: int = 0,
    lenient: bool = False,
    reduce_zero_label: bool = False,
    ignore: Collection[int] = (),
) -> Start:
    """Where label maps come from.

    Args:
        source: a folder of label maps, ``hf:<directory or hub id>``, or ``"noisy"``.
        dataset: whose images are asked for.
        device: for a model.
        seed: for ``"noisy"``; image id and seed alone decide the noise.
        lenient: images without a map in the folder are refused one by one, when their turn comes.
        reduce_zero_label: these maps count classes from 0 where the truth counts from 1 and 0 is none, as
            mmsegmentation's option of that name has it. They are raised by one, so figures go by the truth's
            numbers.
        ignore: labels that stay as they are then, since they mark no class.

    Raises:
        UsageError: a folder that lacks maps, or ``"noisy"`` maps reduced. CheckpointError: no such model.
    """
    if source == NOISY:
        if reduce_zero_label:
            raise UsageError(
                "reduce_zero_label: noisy maps are made from the truth and count as it does; leave it out"
            )
        return lambda key, pixels, truth: noisy_labels(truth, np.random.default_rng([seed, key]))
    if source.startswith(PREFIX):
        model = load_semantic(source, device)
        # Where the model's own processor reduces labels, its maps count from 1 already.
        raised = reduce_zero_label and not model.first_label
        return lambda key, pixels, truth: _raised(model.label_map(pixels), raised, ())
    if lenient:
        files = {image.id: Path(source) / f"{image.path.stem}.png" for image in dataset.images}
    else:
        files = map_files(Path(source), list(dataset.images), "--labels")
    return lambda key, pixels, truth: _raised(
        read_label_map(files[key], (pixels.shape[0], pixels.shape[1])), reduce_zero_label, ignore
    )


def _raised(labels: LabelMap, raised: bool, ignore: Collection[int]) -> LabelMap:
    return np.where(np.isin(labels, list(ignore)), labels, labels + 1) if raised else labels


@as_documented
def evaluate_semantic(
    sam: Sam,
    dataset: SemanticSet,
    start: Start,
    source: str,
    options: EverythingOptions | None = None,
    *,
    ignore_zero: bool = True,
    ignore: Collection[int] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    show: Show | None = None,
    bad: BadEntries | None = None,
) -> SemanticResult:
    """Refine every starting map by the model's masks and measure both.

    Args:
        sam: model to evaluate.
        dataset: images and true label maps.
        start: from :func:`starting_maps`.
        source: name of the starting maps, for the result.
        options: of everything mode; None takes ``SSA_OPTIONS``.
        ignore_zero: leave pixels out whose true label is 0, as ADE20K does.
        ignore: further true labels to leave out, such as 255 for pixels without a class.
        progress: called with images done and in total.
        show: called with the maps of each image.
        bad: what becomes of images and maps that cannot be read, and what was left out before; None stops
            at them.

    Raises:
        ImageError: an image or label map cannot be read, or their sizes differ.
    """
    before, after = (Confusion(ignore_zero=ignore_zero, ignore=ignore) for _ in range(2))
    masks = nan_count = images = dark = 0
    seconds = 0.0
    bad = BadEntries(offered=False) if bad is None else bad
    for done, image in enumerate(dataset.images):
        progress(done, len(dataset.images))
        try:
            pixels = open_semantic_image(image)
            truth = read_label_map(dataset.truth[image.id], (pixels.shape[0], pixels.shape[1]))
            labels = start(image.id, pixels, truth)
        except ImageError as error:
            bad.leave_out_image(error)
            continue
        images += 1
        dark += is_nearly_black(pixels)
        started = time.perf_counter()
        found = segment_everything(sam.model, pixels, options or SSA_OPTIONS)
        better = refined(labels, found)
        seconds += time.perf_counter() - started
        masks += len(found)
        nan_count += found.nan_count
        before.add(truth, labels)
        after.add(truth, better)
        if show is not None:
            show(image.path.name, pixels, labels, better, truth)
    progress(len(dataset.images), len(dataset.images))
    bad.refuse_nothing(images)
    first, last = before.figures(), after.figures()
    return SemanticResult(
        model=sam.name,
        bits=sam.bits,
        labels=source,
        images=images,
        masks=masks,
        mIoU=last.mIoU,
        pixel_accuracy=last.pixel_accuracy,
        start_mIoU=first.mIoU,
        start_pixel_accuracy=first.pixel_accuracy,
        classes=_by_class(first, last),
        nan_count=nan_count,
        seconds=round(seconds, 3),
        notes=bad.notes_beside(
            (
                *dataset.notes,
                *label_notes(before.counts),
                *dark_pictures(dark, images),
                *_without_masks(masks),
            )
        ),
        left_out=tuple(bad.left_out),
    )


def _without_masks(masks: int) -> tuple[str, ...]:
    said = "no mask passed the thresholds, so the maps stayed as they were; try lower ones, such as"
    return (
        () if masks else (f"{said} --everything pred_iou_thresh=0.7 --everything stability_score_thresh=0.8",)
    )


def _by_class(first: SemanticFigures, last: SemanticFigures) -> dict[int, ClassIoU]:
    count = max(len(first.class_iou), len(last.class_iou))
    starts, ends = _entries(first.class_iou.tolist(), count), _entries(last.class_iou.tolist(), count)
    pixels = [*last.class_pixels.tolist(), *[0] * count]
    return {
        key: ClassIoU(start, end, pixels[key])
        for key, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start is not None or end is not None
    }


def _entries(values: list[float], count: int) -> list[float | None]:
    padded = [*values, *[math.nan] * (count - len(values))]
    return [None if math.isnan(value) else value for value in padded]
