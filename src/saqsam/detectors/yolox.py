"""YOLOX-L from mmdet's published file, by the settings of mmdet's own test pipeline.

The image is scaled to fit 640 x 640 (a letterbox: scaled image top left, the rest grey 114), blue-green-red,
0 to 255, not normalised. A cell's score is objectness times its best class; boxes from .01 on survive,
class-wise suppression at IoU .65 thins them, and nothing limits their number.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from saqsam.datasets.boxes import nms_by_group
from saqsam.detectors.coco_names import COCO_NAMES
from saqsam.detectors.detections import Detections
from saqsam.detectors.layers import laid_out
from saqsam.detectors.resize import fitted_size, resize_pixels
from saqsam.detectors.weights import fill, plain_table
from saqsam.detectors.yolox_network import Yolox, YoloxSizes
from saqsam.images.files import Pixels

INPUT_SIDE = 640
GREY = 114.0
LEAST_SCORE = 0.01
NMS_IOU = 0.65
_STRIDES = (8, 16, 32)


class YoloxDetector:
    """A :class:`~saqsam.detectors.detector.Detector` around a YOLOX network."""

    name = "yolox-l"

    def __init__(
        self, network: Yolox, class_names: tuple[str, ...] = COCO_NAMES, input_side: int = INPUT_SIDE
    ) -> None:
        self.network, self.class_names, self.input_side = network, class_names, input_side

    @torch.no_grad()
    def detect(self, pixels: Pixels) -> Detections:
        """Boxes from score .01 on, thinned class by class."""
        device = next(self.network.parameters()).device
        image, factors = letterbox(pixels, self.input_side, device)
        boxes, scores, labels = decode(self.network(image))
        likely = scores >= LEAST_SCORE
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        kept = nms_by_group(boxes, scores, labels, NMS_IOU)
        return Detections(boxes[kept] / factors, scores[kept], labels[kept]).cpu()


def letterbox(pixels: Pixels, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The network's input ``(1, 3, side, side)``, and the factors ``(4,)`` from image to input pixels."""
    height, width = pixels.shape[:2]
    size = fitted_size(height, width, side, side)
    image = torch.full((1, 3, side, side), GREY, device=device)
    image[0, :, : size[0], : size[1]] = resize_pixels(pixels, size, device).flip(0)
    across, down = size[1] / width, size[0] / height
    return image, torch.tensor([across, down, across, down], device=device)


def decode(maps: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The head's maps as boxes ``(N, 4)`` corners in input pixels, scores ``(N,)`` and labels ``(N,)``.

    A cell at column x, row y and stride s speaks of the box centred at ``((x, y) + d_xy) * s`` with sides
    ``exp(d_wh) * s``.
    """
    boxes, scores, labels = [], [], []
    for stride, (classes, sides, objectness) in zip(_STRIDES, maps, strict=True):
        rows, columns = classes.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(rows, device=classes.device),
            torch.arange(columns, device=classes.device),
            indexing="ij",
        )
        cells = torch.stack([x, y], dim=-1).reshape(-1, 2)
        numbers = sides[0].flatten(1).T
        centre = (numbers[:, :2] + cells) * stride
        half = numbers[:, 2:].exp() * stride / 2
        boxes.append(torch.cat([centre - half, centre + half], dim=1))
        best = classes[0].flatten(1).sigmoid().max(dim=0)
        scores.append(best.values * objectness.flatten().sigmoid())
        labels.append(best.indices)
    return torch.cat(boxes), torch.cat(scores), torch.cat(labels)


def load_yolox(path: Path, device: str = "cpu", sizes: YoloxSizes | None = None) -> YoloxDetector:
    """YOLOX-L from mmdet's ``yolox_l_8x8_300e_coco_*.pth``.

    Raises:
        CheckpointError: another model's weights, or damaged ones.
    """
    network = laid_out(lambda: Yolox(sizes or YoloxSizes()))
    # A training checkpoint carries the average of the weights a second time, as ema_...
    fill(network, path, plain_table(network), lambda name: name.startswith("ema_"), "YOLOX-L", device)
    return YoloxDetector(network)
