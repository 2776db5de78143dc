"""Prompts for every image of a data set: its own boxes, one click per object, or a detector's boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.exif import table
from saqsam.datasets.instances import ImageRecord, Instance, InstanceSet
from saqsam.datasets.masks import Mask, mask_area
from saqsam.prompts.detections import read_detections
from saqsam.prompts.prompts import Prompts, checked_boxes, checked_points

BOXES, POINTS = "boxes", "points"


@dataclass(frozen=True)
class ImagePrompts:
    """What one image is asked, and what the answers will be called.

    Attributes:
        prompts: P prompts in pixels of the image.
        category_ids: (P,) category of each.
        scores: (P,) the detector's confidence; 1 for prompts from annotations.
        instances: (P,) the object each prompt was made from; empty for detections.
        clipped: boxes that reached past the image and were clipped to it.
        given: (P, 4) float64 XYXY boxes before they were clipped; None for clicks.
    """

    prompts: Prompts
    category_ids: tuple[int, ...]
    scores: tuple[float, ...]
    instances: tuple[Instance, ...] = ()
    clipped: int = 0
    given: npt.NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


def prompts_for(
    dataset: InstanceSet,
    source: str | Path,
    *,
    top_k: int | None = None,
    score_threshold: float | None = None,
    any_category: bool = False,
    bad: BadEntries | None = None,
) -> dict[int, ImagePrompts]:
    """Prompts by image id; images with nothing to ask are left out.

    Args:
        dataset: images and their annotations. Crowds are never prompted.
        source: ``"boxes"``, ``"points"`` (the pixel of each object farthest from its edge), or a
            COCO-results file of detections.
        top_k: of detections, keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.
        any_category: detections may be of categories that the set does not have.
        bad: what becomes of bad detections, and where those left out are listed; None stops at them.

    Raises:
        AnnotationError: the detections file breaks its rules.
        PromptError: a ground-truth box has no meaning on its image; the message names the image.
    """
    if source in (BOXES, POINTS):
        made = {image.id: _from_objects(image, dataset, str(source)) for image in dataset.images}
        return {key: found for key, found in made.items() if found is not None}
    detections = read_detections(
        source,
        dataset,
        top_k=top_k,
        score_threshold=score_threshold,
        any_category=any_category,
        bad=bad,
    )
    prompts = {}
    for image in dataset.images:
        found = detections.get(image.id)
        if found:
            where = f"{source}: image {image.id}: boxes"
            given = table(one.box for one in found)
            boxes, clipped = checked_boxes(given, image.width, image.height, where=where)
            categories = tuple(one.category_id for one in found)
            scores = tuple(one.score for one in found)
            asked = Prompts(boxes=boxes)
            prompts[image.id] = ImagePrompts(asked, categories, scores, clipped=clipped, given=given)
    return prompts


def _from_objects(image: ImageRecord, dataset: InstanceSet, kind: str) -> ImagePrompts | None:
    objects = tuple(one for one in dataset.instances_of(image.id) if not one.iscrowd)
    clicks = []
    if kind == POINTS:  # an annotated object too small to cover a pixel cannot be pointed at
        objects = tuple(one for one in objects if mask_area(one.segmentation))
        clicks = [centre_click(one.mask()) for one in objects]
    else:
        objects = tuple(one for one in objects if one.stated_box or mask_area(one.segmentation))
    if not objects:
        return None
    where = f"{dataset.path}: image {image.id}: {kind}"
    clipped, given = 0, None
    if kind == POINTS:
        points, labels = checked_points(clicks, None, image.width, image.height, where=where)
        prompts = Prompts(points=points, labels=labels)
    else:
        given = table(one.box_xyxy for one in objects)
        boxes, clipped = checked_boxes(given, image.width, image.height, where=where)
        prompts = Prompts(boxes=boxes)
    categories = tuple(one.category_id for one in objects)
    return ImagePrompts(prompts, categories, (1.0,) * len(objects), objects, clipped, given)


def centre_click(mask: Mask) -> tuple[float, float]:
    """The pixel of a mask farthest from its edge, as ``x, y``; of several, the first in reading order.

    Args:
        mask: (H, W) bool with at least one pixel. The image's border counts as an edge.
    """
    # Takes a third of a second to import, and boxes need no click.
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, x0 = int(rows[0]), int(columns[0])
    part = np.pad(mask[y0 : rows[-1] + 1, x0 : columns[-1] + 1], 1)
    distance = distance_transform_edt(part)
    y, x = np.unravel_index(int(distance.argmax()), part.shape)
    return float(x + x0 - 1), float(y + y0 - 1)
