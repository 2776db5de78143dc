"""Instance segmentation as the papers measure it: boxes or clicks in, COCO mask AP out.

The protocol (Kirillov et al. 2023, section 7.4; the evaluation code of PTQ4SAM and SAQ-SAM): the single
mask of every prompt, cut at logit 0, at full image size; its score is the detector's score times the
predicted IoU; COCO AP at most 100 masks for each image and category. Unlike that code, an image without
prompts gets no invented box, and a mask that is not finite counts as nothing found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from saqsam.datasets.bad_entries import BadEntries, LeftOut
from saqsam.datasets.instances import ImageRecord, Instance, InstanceSet, open_listed
from saqsam.datasets.masks import Rle, encode_mask, mask_area, pairwise_iou
from saqsam.errors import ImageError
from saqsam.images.files import Pixels, dark_pictures, is_nearly_black
from saqsam.prompts.from_dataset import ImagePrompts
from saqsam.prompts.plausible import implausible
from saqsam.segment.zoom import segment_parts
from saqsam.tasks.coco_ap import coco_mask_ap, coco_truth
from saqsam.torch_state import as_documented

if TYPE_CHECKING:
    from saqsam.sam import Sam


@dataclass(frozen=True)
class InstanceResult:
    """Figures of one model on one set with one kind of prompts.

    Attributes:
        model: its name.
        bits: ``float`` or for example ``w4a4``.
        prompts: where prompts came from.
        images: images evaluated, those without prompts included.
        instances: prompts answered.
        AP, AP50, AP75, AP_small, AP_medium, AP_large: COCO mask AP, 0 to 1; -1 where nothing was to find.
        mIoU: mean over all objects that are no crowd of the IoU with their mask, 0 without one: with
            prompts from annotations, the mask asked for the object; with detections, the best mask of
            its category on its image. None where there is no object.
        agreement: mean IoU of the masks with the reference model's on the same prompts, 1 where both are
            empty and 0 where one is not finite; None without a reference.
        nan_count: masks or scores that were not finite; they count as not found.
        clipped_boxes: boxes that reached past their image.
        images_without_prompts: images on which nothing was asked.
        seconds: time spent on prompted images, from opening the file to full-size masks; measuring them
            and the reference model are not counted.
        notes: what was accepted, supplied or decided on the way, and what looks implausible, one line for
            each kind.
        left_out: entries and images that could not be used.
        zoom, clip_to_box: how boxes were answered, see :mod:`saqsam.segment.zoom`.
        encoder_passes: images that were encoded, or with ``zoom`` crops.
    """

    model: str
    bits: str
    prompts: str
    images: int
    instances: int
    AP: float
    AP50: float
    AP75: float
    AP_small: float
    AP_medium: float
    AP_large: float
    mIoU: float | None
    agreement: float | None
    nan_count: int
    clipped_boxes: int
    images_without_prompts: int
    seconds: float
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    zoom: bool = False
    clip_to_box: bool = False
    encoder_passes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass
class ImageFigures:
    """What one image adds to the figures of its set; plain JSON types.

    Attributes:
        results: COCO results, those with a mask.
        truth: IoU of each object that is no crowd with the mask found for it.
        agreement: IoU of each mask with the reference model's.
        instances: prompts answered.
        nan_count: of them, those whose mask or score was not finite.
        clipped: boxes that reached past the image.
        seconds: from opening the file to full-size masks.
        encoder_passes: images or crops that were encoded.
        dark: the image was read and is nearly black.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    instances: int = 0
    nan_count: int = 0
    clipped: int = 0
    seconds: float = 0.0
    encoder_passes: int = 0
    dark: bool = False


@as_documented
def evaluate_instances(
    sam: Sam,
    dataset: InstanceSet,
    prompts: Mapping[int, ImagePrompts],
    source: str = "boxes",
    reference: Sam | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    bad: BadEntries | None = None,
) -> InstanceResult:
    """Segment every prompted image and measure the masks.

    Args:
        sam: model to evaluate.
        dataset: images and what is on them.
        prompts: by image id, from ``prompts_for``.
        source: name of the prompts, for the result.
        reference: model whose masks ``agreement`` compares with; its time is not counted.
        progress: called with images done and in total.
        bad: what becomes of images that cannot be read, and what was left out before; None stops at them.

    Raises:
        ImageError: a listed image cannot be read, or has another size than its annotations say.
    """
    bad = BadEntries(offered=False) if bad is None else bad
    read, found = [], []
    for done, image in enumerate(dataset.images):
        progress(done, len(dataset.images))
        objects = dataset.instances_of(image.id)
        try:
            found.append(image_figures(sam, image, prompts.get(image.id), objects, reference))
        except ImageError as error:
            bad.leave_out_image(error)
        else:
            read.append(image)
    progress(len(dataset.images), len(dataset.images))
    bad.refuse_nothing(len(read))
    return summary(sam, dataset.only(read), prompts, source, found, bad)


def summary(
    sam: Sam,
    dataset: InstanceSet,
    prompts: Mapping[int, ImagePrompts],
    source: str,
    found: Sequence[ImageFigures],
    bad: BadEntries | None = None,
) -> InstanceResult:
    """The figures of a set from those of its images, in the set's order: sums depend on it.

    Args:
        sam: the model; only its name, its bits and its way to answer boxes are read.
        dataset: as for ``evaluate_instances``, likewise ``prompts`` and ``source``.
        found: one for each image of the set.
        bad: what was left out.
    """
    bad = BadEntries(offered=False) if bad is None else bad
    truth = [value for one in found for value in one.truth]
    agreement = [value for one in found for value in one.agreement]
    notes = (
        *dataset.notes,
        *implausible(dataset, prompts, source),
        *dark_pictures(sum(one.dark for one in found), len(found)),
        *_without_pixels(dataset),
    )
    figures = coco_mask_ap(coco_truth(dataset), [entry for one in found for entry in one.results])
    return InstanceResult(
        model=sam.name,
        bits=sam.bits,
        prompts=source,
        images=len(dataset.images),
        instances=sum(one.instances for one in found),
        **figures,
        mIoU=float(np.mean(truth)) if truth else None,
        agreement=float(np.mean(agreement)) if agreement else None,
        nan_count=sum(one.nan_count for one in found),
        clipped_boxes=sum(one.clipped for one in found),
        images_without_prompts=sum(image.id not in prompts for image in dataset.images),
        seconds=round(sum(one.seconds for one in found), 3),
        notes=bad.notes_beside(notes),
        left_out=tuple(bad.left_out),
        zoom=sam.zoom,
        clip_to_box=sam.clip_to_box,
        encoder_passes=sum(one.encoder_passes for one in found),
    )


def _without_pixels(dataset: InstanceSet) -> Iterator[str]:
    """A note on outlines too thin to hold a pixel; of those with area 0 it is told where they are read."""
    objects = [one for image in dataset.images for one in dataset.instances_of(image.id)]
    empty = sum(one.area > 0 and mask_area(one.segmentation) == 0 for one in objects)
    if empty:
        yield f"{empty} annotated masks hold no pixel: no model can find them; mend their outlines"


def image_figures(
    sam: Sam,
    image: ImageRecord,
    asked: ImagePrompts | None,
    objects: Sequence[Instance],
    reference: Sam | None = None,
) -> ImageFigures:
    """Segment the prompts of one image, if any, and measure the masks; see ``evaluate_instances``.

    Raises:
        ImageError: the image cannot be read, or has another size than its annotations say.
    """
    figures = ImageFigures()
    if asked is None:
        figures.truth = [0.0] * sum(not one.iscrowd for one in objects)
        return figures
    start = time.perf_counter()
    pixels = open_listed(image).pixels
    figures.seconds += time.perf_counter() - start
    figures.dark = is_nearly_black(pixels)
    found = _answers(sam, pixels, asked, figures)
    figures.instances = len(found)
    figures.nan_count = sum(one.mask is None for one in found)
    figures.clipped = asked.clipped
    figures.results = [
        {
            "image_id": image.id,
            "category_id": category,
            "segmentation": {"size": one.mask["size"], "counts": one.mask["counts"].decode("ascii")},
            "score": confidence * one.score,
        }
        for one, category, confidence in zip(found, asked.category_ids, asked.scores, strict=True)
        if one.mask is not None
    ]
    figures.truth = list(_against_truth(found, asked, objects))
    if reference is not None:
        judged = _answers(reference, pixels, asked)
        figures.agreement = [_overlap(one.mask, other.mask) for one, other in zip(found, judged, strict=True)]
    return figures


@dataclass(frozen=True)
class _Answer:
    """What a model made of one prompt: its mask, None where logits or score are not finite, and score."""

    mask: Rle | None
    score: float


def _answers(
    sam: Sam, pixels: Pixels, asked: ImagePrompts, tally: ImageFigures | None = None
) -> list[_Answer]:
    """One answer for each prompt; full-size masks exist a few at a time, and their time is tallied."""
    answers: list[_Answer] = []
    start = time.perf_counter()
    for part in segment_parts(sam.model, pixels, asked.prompts, sam.answering()):
        if tally is not None:
            tally.seconds += time.perf_counter() - start
            tally.encoder_passes += part.encoder_passes
        finite = np.isfinite(part.iou_scores) & part.low_res_logits.isfinite().flatten(1).all(1).numpy()
        answers += [
            _Answer(encode_mask(mask) if good else None, float(score))
            for mask, good, score in zip(part.masks, finite, part.iou_scores, strict=True)
        ]
        start = time.perf_counter()
    return answers


def _against_truth(
    found: Sequence[_Answer], asked: ImagePrompts, objects: Sequence[Instance]
) -> Iterator[float]:
    """IoU of every object that is no crowd, 0 for those without a mask."""
    masks: dict[int, list[Rle]] = {}
    for index, one in enumerate(found):
        if one.mask is not None:
            key = asked.instances[index].id if asked.instances else asked.category_ids[index]
            masks.setdefault(key, []).append(one.mask)
    for thing in objects:
        if not thing.iscrowd:
            own = masks.get(thing.id if asked.instances else thing.category_id, [])
            yield float(pairwise_iou(own, [thing.segmentation]).max(initial=0.0))


def _overlap(mask: Rle | None, other: Rle | None) -> float:
    """IoU of two models' masks: 1 where both found nothing, 0 where one is not finite."""
    if mask is None or other is None:
        return 0.0
    if mask_area(mask) == mask_area(other) == 0:
        return 1.0
    return float(pairwise_iou([mask], [other])[0, 0])
