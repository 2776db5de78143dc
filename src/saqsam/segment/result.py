"""The result of segmenting one image, and what can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from saqsam.errors import NumericalError, PromptError
from saqsam.prompts.prompts import Prompts


@dataclass(frozen=True)
class Segmentation:
    """What a model made of the prompts of one image.

    Attributes:
        masks: (P, H, W) bool in displayed-image pixels. Where all M masks of each prompt were asked for, P
            counts masks: rows ``M * p`` to ``M * p + M - 1`` belong to prompt p, in the model's order.
        iou_scores: (P,) float32, the model's own estimate of each mask's IoU.
        low_res_logits: (P, 1, 4g, 4g) float32 on the CPU, in the frame of the whole image; can be given back
            as mask prompts.
        clipped_boxes: boxes that reached past the image and were clipped to it.
        nan_count: masks whose logits or score were not finite.
        prompts: the checked prompts, on the CPU, one for each mask.
        encoder_passes: what was encoded for it: the image once, or with ``zoom`` each crop.
        object_scores: (P,) float32 in 0..1, how likely the model thinks that there is an object where it was
            asked; ``None`` from families that do not say.
        notes: what was changed on the way from the file or array to pixels, one short sentence each.
    """

    masks: npt.NDArray[np.bool_]
    iou_scores: npt.NDArray[np.float32]
    low_res_logits: Tensor
    clipped_boxes: int = 0
    nan_count: int = 0
    prompts: Prompts = field(default_factory=Prompts)
    encoder_passes: int = 0
    notes: tuple[str, ...] = ()
    object_scores: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def draw(self, pixels: npt.NDArray[np.uint8]) -> Image.Image:
        """The masks, with their boxes and points, drawn over the (H, W, 3) uint8 image."""
        from saqsam.images.draw import draw_masks

        return draw_masks(pixels, self.masks, boxes=self.prompts.boxes, points=self.prompts.clicks())

    def to_coco(
        self,
        image_id: int,
        category_ids: Sequence[int],
        scores: Sequence[float] | None = None,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> list[dict[str, Any]]:
        """COCO results with RLE masks, one for each prompt.

        Boxes are left out on purpose: COCO's small/medium/large then follows the area of the mask.

        Args:
            image_id: COCO id of the image.
            category_ids: (P,) COCO category of each prompt.
            scores: (P,) confidence of the detector; each result's score is its product with the
                predicted IoU. None takes the predicted IoU alone.
            keep: (P,) which masks to write; None writes all.

        Raises:
            PromptError: not one category and one score for each mask.
            NumericalError: the model's output was not finite, and ``keep`` was not given.
        """
        from faster_coco_eval.core import mask as rle

        if len(category_ids) != len(self) or (scores is not None and len(scores) != len(self)):
            raise PromptError(f"to_coco: {len(self)} masks need as many category_ids, and scores if given")
        if self.nan_count and keep is None:
            raise NumericalError("mask_decoder", f"{self.nan_count} masks or scores are not finite numbers")
        results = []
        for index, mask in enumerate(self.masks):
            if keep is not None and not keep[index]:
                continue
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            counts = code["counts"].decode("ascii") if isinstance(code["counts"], bytes) else code["counts"]
            confidence = 1.0 if scores is None else float(scores[index])
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": int(category_ids[index]),
                    "segmentation": {"size": [int(side) for side in mask.shape], "counts": counts},
                    "score": confidence * float(self.iou_scores[index]),
                }
            )
        return results
