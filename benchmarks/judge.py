"""Figures of many models on one set of pictures, beside a reference whose answers are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saqsam.datasets.coco import read_instances
from saqsam.datasets.masks import mask_area, pairwise_iou
from saqsam.prompts.from_dataset import prompts_for
from saqsam.sam import Sam
from saqsam.tasks.instance import ImageFigures, InstanceResult, image_figures, summary


class Judge:
    """As ``api.evaluate`` with a reference.

    Args:
        reference: whom agreement is with.
        folder: has ``images/`` and the annotations.
        annotations: within the folder.
        prompts: ``boxes`` or ``points`` of the annotated objects.
    """

    def __init__(self, reference: Sam, folder: Path, annotations: str, prompts: str) -> None:
        self.reference, self.source = reference, prompts
        self.dataset = read_instances(folder / annotations, folder / "images")
        self.prompts = prompts_for(self.dataset, prompts)
        self.answers = self._figures(reference)

    def figures(self, sam: Sam) -> InstanceResult:
        """Those of one model."""
        found = self.answers if sam is self.reference else self._figures(sam)
        for own, other in zip(found, self.answers, strict=True):
            if own.nan_count or other.nan_count:
                raise SystemExit(f"{sam.name}: masks that are not finite; use saqsam evaluate --reference")
            own.agreement = agreement(own.results, other.results)
        return summary(sam, self.dataset, self.prompts, self.source, found)

    def _figures(self, sam: Sam) -> list[ImageFigures]:
        objects = self.dataset.instances_of
        return [
            image_figures(sam, image, self.prompts.get(image.id), objects(image.id))
            for image in self.dataset.images
        ]


def agreement(results: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[float]:
    """IoU of each mask with the reference's on the same prompt, 1 where both are empty."""
    found = []
    for one, other in zip(results, others, strict=True):
        codes = [{**x["segmentation"], "counts": x["segmentation"]["counts"].encode()} for x in (one, other)]
        empty = mask_area(codes[0]) == mask_area(codes[1]) == 0
        found.append(1.0 if empty else float(pairwise_iou(codes[:1], codes[1:])[0, 0]))
    return found
