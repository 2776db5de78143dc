"""What everything mode found on one image, and what can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from saqsam.datasets.masks import Mask, Rle, decode_mask, mask_area, mask_box


@dataclass(frozen=True)
class EverythingMask:
    """One mask.

    Attributes:
        segmentation: run-length code at the size of the image.
        predicted_iou: the model's own estimate of its IoU.
        stability_score: IoU of the mask cut a little above and a little below.
        point: the click it came from, ``x, y`` in pixels of the image.
        crop: the part of the image it was found in, ``x0, y0, x1, y1``.
        extent: first and last column and row, ``x0, y0, x1, y1``: what was compared with other masks.
    """

    segmentation: Rle
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]
    extent: tuple[int, int, int, int]

    @property
    def area(self) -> int:
        """In pixels."""
        return mask_area(self.segmentation)

    def mask(self) -> Mask:
        """``(H, W)`` bool."""
        return decode_mask(self.segmentation)

    def to_coco(self) -> dict[str, Any]:
        """A record with the fields of segment-anything's mask generator.

        ``bbox`` and ``crop_box`` are x, y, width, height; ``bbox`` counts the pixels of the last column and
        row, as COCO does.
        """
        x0, y0, x1, y1 = mask_box(self.segmentation)
        left, top, right, bottom = self.crop
        code = self.segmentation
        return {
            "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
            "area": self.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": self.predicted_iou,
            "point_coords": [list(self.point)],
            "stability_score": self.stability_score,
            "crop_box": [left, top, right - left, bottom - top],
        }


@dataclass(frozen=True)
class Everything:
    """Masks of everything on one image.

    Attributes:
        records: masks; those of smaller crops first, then by falling predicted IoU.
        size: (height, width) of the image.
        nan_count: predicted IoUs that were not finite; their masks are left out.
    """

    records: Sequence[EverythingMask]
    size: tuple[int, int]
    nan_count: int = 0

    def __len__(self) -> int:
        return len(self.records)

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """``(N, H, W)``, decoded anew at every call."""
        if not self.records:
            return np.zeros((0, *self.size), dtype=bool)
        return np.stack([record.mask() for record in self.records])

    def to_coco(self) -> list[dict[str, Any]]:
        """One record for each mask, see ``EverythingMask.to_coco``."""
        return [record.to_coco() for record in self.records]

    def draw(self, pixels: npt.NDArray[np.uint8]) -> Image.Image:
        """The masks over the ``(H, W, 3)`` uint8 image."""
        from saqsam.images.draw import draw_masks

        return draw_masks(pixels, self.masks)
