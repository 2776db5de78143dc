"""What H-Deformable-DETR and DINO share: how an image goes in, and how boxes are read from the answer.

The settings are those of Prompt-Segment-Anything, whose detectors the papers use: scaled to fit 1333 x 800,
ImageNet's mean and deviation, no padding; sigmoid scores of COCO's 80 categories, the best pairs of query
and category; no threshold, no suppression, boxes not clipped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saqsam.datasets.boxes import centre_to_corners
from saqsam.detectors.coco_names import COCO_IDS
from saqsam.detectors.detections import Detections, top_query_classes
from saqsam.detectors.resize import fitted_size, normalise, resize_pixels
from saqsam.images.files import Pixels

LIMITS = (1333, 800)


def network_input(pixels: Pixels, limits: tuple[int, int], device: torch.device) -> Tensor:
    """``(1, 3, h, w)`` normalised RGB; the long and short side fit ``limits``."""
    size = fitted_size(pixels.shape[0], pixels.shape[1], *limits)
    return normalise(resize_pixels(pixels, size, device))[None]


def read_predictions(logits: Tensor, boxes: Tensor, pixels: Pixels, top_k: int) -> Detections:
    """Boxes in pixels of the image, labels 0 to 79.

    Args:
        logits: ``(Q, 91)`` by COCO id.
        boxes: ``(Q, 4)`` centre, width and height relative to the image.
        pixels: the image itself, for its size.
        top_k: pairs of query and category that are kept.
    """
    height, width = pixels.shape[:2]
    scores = logits[:, list(COCO_IDS)].sigmoid()
    sides = boxes.new_tensor([width, height, width, height])
    return top_query_classes(scores, centre_to_corners(boxes) * sides, top_k).cpu()
