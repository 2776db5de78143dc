"""Faster R-CNN R50-FPN from mmdet's published file, by the settings of mmdet's own test pipeline.

Scaled to fit 1333 x 800, ImageNet's mean and deviation, zeros at the right and below up to a multiple of
32; scores above .05, class-wise suppression at IoU .5, at most 100 boxes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from saqsam.datasets.boxes import nms_by_group
from saqsam.detectors.coco_names import COCO_NAMES
from saqsam.detectors.detections import Detections
from saqsam.detectors.faster_rcnn_network import FasterRcnn, FasterRcnnSizes
from saqsam.detectors.layers import laid_out
from saqsam.detectors.resize import fitted_size, normalise, resize_pixels
from saqsam.detectors.weights import fill, plain_table
from saqsam.images.files import Pixels

LONG_SIDE, SHORT_SIDE, MULTIPLE = 1333, 800, 32
LEAST_SCORE = 0.05
NMS_IOU = 0.5
TOP_K = 100


class FasterRcnnDetector:
    """A :class:`~saqsam.detectors.detector.Detector` around a Faster R-CNN.

    Args:
        network: in eval mode.
        class_names: by label.
        limits: long and short side that images are scaled to fit.
    """

    name = "faster-rcnn-r50"

    def __init__(
        self,
        network: FasterRcnn,
        class_names: tuple[str, ...] = COCO_NAMES,
        limits: tuple[int, int] = (LONG_SIDE, SHORT_SIDE),
    ) -> None:
        self.network, self.class_names, self.limits = network, class_names, limits

    @torch.no_grad()
    def detect(self, pixels: Pixels) -> Detections:
        """At most 100 boxes with a score above .05."""
        device = next(self.network.parameters()).device
        height, width = fitted_size(pixels.shape[0], pixels.shape[1], *self.limits)
        image = normalise(resize_pixels(pixels, (height, width), device))
        padded = functional.pad(image, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        scores, boxes = self.network(padded[None], height, width)
        rows, labels = (scores > LEAST_SCORE).nonzero(as_tuple=True)
        scores, boxes = scores[rows, labels], boxes[rows, labels]
        kept = nms_by_group(boxes, scores, labels, NMS_IOU)[:TOP_K]
        across, down = width / pixels.shape[1], height / pixels.shape[0]
        factors = boxes.new_tensor([across, down, across, down])
        return Detections(boxes[kept] / factors, scores[kept], labels[kept]).cpu()


def load_faster_rcnn(
    path: Path, device: str = "cpu", sizes: FasterRcnnSizes | None = None
) -> FasterRcnnDetector:
    """Faster R-CNN from mmdet's ``faster_rcnn_r50_fpn_*.pth``.

    Raises:
        CheckpointError: another model's weights, or damaged ones.
    """
    network = laid_out(lambda: FasterRcnn(sizes or FasterRcnnSizes()))
    fill(network, path, plain_table(network), what="Faster R-CNN R50-FPN", device=device)
    return FasterRcnnDetector(network)
