"""Instance segmentation as the papers measure it: boxes or clicks in, COCO mask AP out.

The protocol (Kirillov et al. 2023, section 7.4; the evaluation code of PTQ4SAM and SAQ-SAM): the single
mask of every prompt, cut at logit 0, at full image size; its score is the detector's score times the
predicted IoU; COCO AP at most 100 masks for each image and category. Unlike that code, an image without
prompts gets no invented box, and a mask that is not finite counts as nothing found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saqsam.predictor import predict
from saqsam.prompts.from_dataset import ImagePrompts
from saqsam.tasks.coco_ap import coco_mask_ap
from saqsam.tasks.instance_set import ImageRecord, InstanceSet, open_listed
from saqsam.tasks.outlines import Mask

if TYPE_CHECKING:
    from saqsam.sam import Sam
    from saqsam.segmentation import Segmentation


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
        mIoU: mean IoU with ground truth. With prompts from annotations, each mask against its own object;
            with detections, each object against the best mask of its category on its image, 0 if none.
            None where there is no object.
        agreement: mean IoU of the masks with the reference model's on the same prompts; None without one.
        nan_count: masks or scores that were not finite; they count as not found.
        clipped_boxes: boxes that reached past their image.
        images_without_prompts: images on which nothing was asked.
        seconds: time spent in the evaluated model, from opening the image to full-size masks.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class _Tally:
    """What is added up over images."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.truth: list[float] = []
        self.agreement: list[float] = []
        self.instances = self.nan_count = self.clipped = 0
        self.seconds = 0.0


def evaluate_instances(
    sam: Sam,
    dataset: InstanceSet,
    prompts: Mapping[int, ImagePrompts],
    source: str = "boxes",
    reference: Sam | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> InstanceResult:
    """Segment every prompted image and measure the masks.

    Args:
        sam: model to evaluate.
        dataset: images and what is on them.
        prompts: by image id, from ``prompts_for``.
        source: name of the prompts, for the result.
        reference: model whose masks ``agreement`` compares with; its time is not counted.
        progress: called with images done and in total.

    Raises:
        ImageError: a listed image cannot be read, or has another size than its annotations say.
    """
    tally = _Tally()
    for done, image in enumerate(dataset.images):
        progress(done, len(dataset.images))
        asked = prompts.get(image.id)
        if asked is None:
            tally.truth += [0.0] * sum(not one.iscrowd for one in dataset.instances_of(image.id))
        else:
            _evaluate_image(tally, sam, image, asked, dataset, reference)
    progress(len(dataset.images), len(dataset.images))
    figures = coco_mask_ap(coco_truth(dataset), tally.results)
    return InstanceResult(
        model=sam.name,
        bits=sam.bits,
        prompts=source,
        images=len(dataset.images),
        instances=tally.instances,
        **figures,
        mIoU=float(np.mean(tally.truth)) if tally.truth else None,
        agreement=float(np.mean(tally.agreement)) if tally.agreement else None,
        nan_count=tally.nan_count,
        clipped_boxes=tally.clipped,
        images_without_prompts=sum(image.id not in prompts for image in dataset.images),
        seconds=round(tally.seconds, 3),
    )


def _evaluate_image(
    tally: _Tally,
    sam: Sam,
    image: ImageRecord,
    asked: ImagePrompts,
    dataset: InstanceSet,
    reference: Sam | None,
) -> None:
    start = time.perf_counter()
    pixels = open_listed(image).pixels
    found = predict(sam.model, pixels, asked.prompts)
    tally.seconds += time.perf_counter() - start
    tally.instances += len(found)
    tally.nan_count += found.nan_count
    tally.clipped += asked.clipped
    finite = np.isfinite(found.iou_scores) & found.low_res_logits.isfinite().flatten(1).all(1).numpy()
    tally.results += found.to_coco(image.id, asked.category_ids, asked.scores, keep=finite)
    tally.truth += _against_truth(found, finite, asked, dataset, image.id)
    if reference is not None:
        judged = predict(reference.model, pixels, asked.prompts).masks
        tally.agreement += [
            mask_iou(mask, other, both_empty=1.0) if good else 0.0
            for mask, other, good in zip(found.masks, judged, finite, strict=True)
        ]


def _against_truth(
    found: Segmentation,
    finite: np.ndarray[Any, Any],
    asked: ImagePrompts,
    dataset: InstanceSet,
    image_id: int,
) -> Iterator[float]:
    if asked.instances:
        for mask, good, one in zip(found.masks, finite, asked.instances, strict=True):
            yield mask_iou(mask, one.mask()) if good else 0.0
        return
    by_category: dict[int, list[Mask]] = {}
    for mask, good, category in zip(found.masks, finite, asked.category_ids, strict=True):
        if good:
            by_category.setdefault(category, []).append(mask)
    for one in dataset.instances_of(image_id):
        if not one.iscrowd:
            truth = one.mask()
            yield max((mask_iou(mask, truth) for mask in by_category.get(one.category_id, [])), default=0.0)


def mask_iou(mask: Mask, other: Mask, *, both_empty: float = 0.0) -> float:
    """IoU of two ``(H, W)`` bool masks; ``both_empty`` where neither has a pixel."""
    union = np.count_nonzero(mask | other)
    return float(np.count_nonzero(mask & other) / union) if union else both_empty


def coco_truth(dataset: InstanceSet) -> dict[str, Any]:
    """The set as a COCO document with RLE masks, for the metric library."""
    annotations = []
    for image in dataset.images:
        for one in dataset.instances_of(image.id):
            x0, y0, x1, y1 = one.box_xyxy
            code = one.segmentation
            annotations.append(
                {
                    "id": one.id,
                    "image_id": image.id,
                    "category_id": one.category_id,
                    "area": one.area,
                    "iscrowd": int(one.iscrowd),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                }
            )
    return {
        "images": [{"id": one.id, "height": one.height, "width": one.width} for one in dataset.images],
        "categories": [{"id": key, "name": name} for key, name in dataset.categories.items()],
        "annotations": annotations,
    }
