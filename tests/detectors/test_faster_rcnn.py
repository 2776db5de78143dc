"""Faster R-CNN's operators against their definitions in loops, and the whole against those put together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.detectors.conftest import awake
from torch import Tensor
from torch.nn import functional as F

from saqsam.detectors.anchors import anchors, apply_deltas
from saqsam.detectors.faster_rcnn import FasterRcnnDetector, load_faster_rcnn
from saqsam.detectors.faster_rcnn_network import FasterRcnn, FasterRcnnSizes, pyramid_level
from saqsam.detectors.roi_align import roi_align

SMALL = FasterRcnnSizes(depths=(1, 2, 1, 1), width=4, channels=8, hidden=16, classes=80)

Box = list[float]


def plain_bilinear(channel: np.ndarray, y: float, x: float) -> float:
    rows, columns = channel.shape
    if y < -1 or y > rows or x < -1 or x > columns:
        return 0.0
    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
    v, u = y - y0, x - x0
    return float(
        channel[y0, x0] * (1 - v) * (1 - u)
        + channel[y0, x1] * (1 - v) * u
        + channel[y1, x0] * v * (1 - u)
        + channel[y1, x1] * v * u
    )


def plain_roi_align(features: np.ndarray, box: Box, scale: float, cells: int) -> np.ndarray:
    x0, y0, x1, y1 = (side * scale - 0.5 for side in box)
    down, across = (y1 - y0) / cells, (x1 - x0) / cells
    rows, columns = math.ceil(down), math.ceil(across)
    result = np.zeros((len(features), cells, cells))
    for channel in range(len(features)):
        for p in range(cells):
            for q in range(cells):
                total = 0.0
                for i in range(rows):
                    for j in range(columns):
                        y = y0 + p * down + (i + 0.5) * down / rows
                        x = x0 + q * across + (j + 0.5) * across / columns
                        total += plain_bilinear(features[channel], y, x)
                result[channel, p, q] = total / max(rows * columns, 1)
    return result


BOXES = [
    [3.0, 4.0, 60.0, 41.0],
    [0.0, 0.0, 100.0, 80.0],
    [-30.0, -20.0, 20.0, 30.0],  # samples more than a pixel outside
    [90.0, 70.0, 140.0, 120.0],
    [10.0, 10.0, 10.5, 70.0],  # narrower than a cell of the map
    [10.0, 10.0, 10.0, 30.0],  # no width: no samples
    [0.0, 76.0, 100.0, 80.0],
]


@pytest.mark.parametrize("cells", [2, 7])
def test_roi_align_is_its_definition(cells: int) -> None:
    features = torch.randn(3, 20, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = roi_align(features, torch.tensor(BOXES, dtype=torch.float64), 0.25, cells)
    wanted = np.stack([plain_roi_align(features.numpy(), box, 0.25, cells) for box in BOXES])
    assert found.shape == (len(BOXES), 3, cells, cells)
    assert np.abs(found.numpy() - wanted).max() < 1e-12
    assert not found[5].any()
    single = roi_align(features.float(), torch.tensor(BOXES), 0.25, cells)
    assert np.abs(single.numpy() - wanted).max() < 1e-5


def test_roi_align_in_slices_and_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, boxes = torch.randn(3, 20, 25), torch.tensor(BOXES)
    whole = roi_align(features, boxes, 0.25, 3)
    monkeypatch.setattr("saqsam.detectors.roi_align.MAX_ELEMENTS", 3 * 20 * 3 * 2)
    assert torch.allclose(roi_align(features, boxes, 0.25, 3), whole, atol=1e-6)
    assert roi_align(features, boxes[:0], 0.25, 3).shape == (0, 3, 3, 3)


def test_anchors_are_not_rounded_and_centred_on_cell_corners() -> None:
    wanted = []
    for row in range(2):
        for column in range(3):
            for ratio in (0.5, 1.0, 2.0):
                width, height = 8 * 16 / math.sqrt(ratio), 8 * 16 * math.sqrt(ratio)
                x, y = column * 16, row * 16
                wanted.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert np.abs(anchors(2, 3, 16).numpy() - np.array(wanted)).max() < 2e-5  # float32 of some hundred


def plain_deltas(box: Box, delta: Box, deviations: tuple[float, ...], width: int, height: int) -> Box:
    dx, dy, dw, dh = (d * s for d, s in zip(delta, deviations, strict=True))
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = (box[0] + box[2]) / 2 + dx * w, (box[1] + box[3]) / 2 + dy * h
    most = math.log(62.5)
    w, h = w * math.exp(min(max(dw, -most), most)), h * math.exp(min(max(dh, -most), most))
    x0, x1 = (min(max(side, 0.0), width) for side in (x - w / 2, x + w / 2))
    y0, y1 = (min(max(side, 0.0), height) for side in (y - h / 2, y + h / 2))
    return [x0, y0, x1, y1]


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_differences_are_decoded_by_their_definition(deviations: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 80
    boxes = torch.cat([low, low + 1 + torch.rand(50, 2, generator=generator, dtype=torch.float64) * 40], 1)
    deltas = torch.randn(50, 4, generator=generator, dtype=torch.float64) * 3
    deltas[0] = torch.tensor([0.0, 0, 90, -90])
    found = apply_deltas(boxes, deltas, deviations, 100, 90)
    wanted = [
        plain_deltas(box, delta, deviations, 100, 90)
        for box, delta in zip(boxes.tolist(), deltas.tolist(), strict=True)
    ]
    assert np.abs(found.numpy() - np.array(wanted)).max() < 1e-9


def test_level_of_a_box_follows_its_size() -> None:
    sides = torch.tensor([10.0, 111.9, 112.0, 223.0, 224.0, 448.0, 2000.0, 0.0])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
    assert pyramid_level(boxes).tolist() == [0, 0, 1, 1, 2, 3, 3, 0]


def test_full_size_parameters() -> None:
    with torch.device("meta"):
        network = FasterRcnn(FasterRcnnSizes())
    # ResNet-50 without its classifier, the pyramid, the proposal head, two layers of 1024, 81 + 320 outputs.
    resnet = 25_557_032 - 2_049_000
    pyramid = sum(256 * c + 256 for c in (256, 512, 1024, 2048)) + 4 * (256 * 256 * 9 + 256)
    proposals = 256 * 256 * 9 + 256 + (256 + 1) * 15
    head = (256 * 49 + 1) * 1024 + 1025 * 1024 + 1025 * (81 + 320)
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == resnet + pyramid + proposals + head
    names = set(network.state_dict())
    for name in (
        "backbone.layer3.5.bn3.running_mean",
        "backbone.layer1.0.downsample.1.weight",
        "neck.lateral_convs.3.conv.bias",
        "neck.fpn_convs.0.conv.weight",
        "rpn_head.rpn_conv.weight",
        "roi_head.bbox_head.shared_fcs.1.weight",
        "roi_head.bbox_head.fc_reg.bias",
    ):
        assert name in names


class PlainFasterRcnn:
    """The whole detector in functions of a dictionary of tensors and loops over boxes."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.t = tensors

    def conv_bn(self, conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.t[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            self.t[f"{bn}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.t[f"{name}.weight"]
        return F.conv2d(x, weight, self.t[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def maps(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.conv_bn("backbone.conv1", "backbone.bn1", x, 2).relu(), 3, 2, 1)
        stages = []
        for stage, depth in enumerate(SMALL.depths, start=1):
            for block in range(depth):
                name = f"backbone.layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = self.conv_bn(f"{name}.conv1", f"{name}.bn1", x).relu()
                y = self.conv_bn(f"{name}.conv2", f"{name}.bn2", y, stride).relu()
                y = self.conv_bn(f"{name}.conv3", f"{name}.bn3", y)
                if block == 0:
                    x = self.conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
                x = (x + y).relu()
            stages.append(x)
        laterals = [self.conv(f"neck.lateral_convs.{i}.conv", one) for i, one in enumerate(stages)]
        for i in (2, 1, 0):
            up = laterals[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            laterals[i] = laterals[i] + up[:, :, : laterals[i].shape[2], : laterals[i].shape[3]]
        outputs = [self.conv(f"neck.fpn_convs.{i}.conv", one) for i, one in enumerate(laterals)]
        return [*outputs, outputs[-1][:, :, ::2, ::2]]

    def proposals(self, maps: list[Tensor], height: int, width: int) -> list[Box]:
        kept: list[tuple[float, Box]] = []
        for level, one in enumerate(maps):
            stride = 4 * 2**level
            hidden = self.conv("rpn_head.rpn_conv", one).relu()
            scores = self.conv("rpn_head.rpn_cls", hidden)[0].sigmoid()
            deltas = self.conv("rpn_head.rpn_reg", hidden)[0]
            found = []
            for row in range(one.shape[2]):
                for column in range(one.shape[3]):
                    for a, ratio in enumerate((0.5, 1.0, 2.0)):
                        w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        box = plain_deltas(
                            [x - w / 2, y - h / 2, x + w / 2, y + h / 2],
                            deltas[4 * a : 4 * a + 4, row, column].tolist(),
                            (1.0, 1.0, 1.0, 1.0),
                            width,
                            height,
                        )
                        found.append((float(scores[a, row, column]), box))
            found = sorted(found, key=lambda one: -one[0])[:1000]
            kept += suppress([one for one in found if one[1][2] > one[1][0] and one[1][3] > one[1][1]], 0.7)
        return [box for _, box in sorted(kept, key=lambda one: -one[0])[:1000]]

    def detections(self, image: Tensor, height: int, width: int) -> list[tuple[float, int, Box]]:
        maps = self.maps(image)
        boxes = self.proposals(maps, height, width)
        pooled = []
        for box in boxes:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3)
            pooled.append(plain_roi_align(maps[level][0].numpy(), box, 1 / (4 * 2**level), 7))
        x = torch.tensor(np.stack(pooled)).float().flatten(1)
        for i in range(2):
            name = f"roi_head.bbox_head.shared_fcs.{i}"
            x = (x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]).relu()
        head = "roi_head.bbox_head.fc"
        scores = (x @ self.t[f"{head}_cls.weight"].T + self.t[f"{head}_cls.bias"]).softmax(1)
        deltas = x @ self.t[f"{head}_reg.weight"].T + self.t[f"{head}_reg.bias"]
        found = []
        for label in range(80):
            own = []
            for row, box in enumerate(boxes):
                if scores[row, label] > 0.05:
                    delta = deltas[row, 4 * label : 4 * label + 4].tolist()
                    moved = plain_deltas(box, delta, (0.1, 0.1, 0.2, 0.2), width, height)
                    own.append((float(scores[row, label]), moved))
            found += [(score, label, box) for score, box in suppress(own, 0.5)]
        return sorted(found, key=lambda one: -one[0])[:100]


def suppress(found: list[tuple[float, Box]], threshold: float) -> list[tuple[float, Box]]:
    left, kept = sorted(found, key=lambda one: -one[0]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        table = np.array([box for _, box in left]).reshape(-1, 4)
        box = np.array(best[1])
        sides = np.clip(np.minimum(table[:, 2:], box[2:]) - np.maximum(table[:, :2], box[:2]), 0, None)
        shared = sides.prod(1)
        union = (table[:, 2:] - table[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
        left = [one for one, much in zip(left, shared > threshold * union, strict=True) if not much]
    return kept


def write_file(network: FasterRcnn, path: Path) -> Path:
    torch.save(
        {"meta": {"CLASSES": ("person",)}, "state_dict": network.state_dict()},
        path,
        _use_new_zipfile_serialization=False,
    )
    return path


def test_the_whole_agrees_with_the_loops(tmp_path: Path) -> None:
    network = awake(FasterRcnn(SMALL), seed=2)
    network.rpn_head.rpn_reg.weight.data *= 0.1
    network.roi_head.bbox_head.fc_cls.weight.data *= 25
    detector = load_faster_rcnn(write_file(network, tmp_path / "f.pth"), sizes=SMALL)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    found = FasterRcnnDetector(detector.network, limits=(65, 48)).detect(pixels)
    # 65 / 75: the image becomes 65 x 43 (43.33), padded to 96 x 64.
    scaled = F.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), size=(43, 65), mode="bilinear"
    ).round()
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[:, None, :, None, None]
    image = torch.zeros(1, 3, 64, 96)
    image[:, :, :43, :65] = (scaled - mean) / std
    wanted = PlainFasterRcnn(network.state_dict()).detections(image, 43, 65)
    assert 5 < len(wanted) <= 100
    assert found.labels.tolist() == [label for _, label, _ in wanted]
    assert np.abs(found.scores.numpy() - [score for score, _, _ in wanted]).max() < 1e-5
    boxes = np.array([box for _, _, box in wanted]) / [65 / 75, 43 / 50, 65 / 75, 43 / 50]
    assert np.abs(found.boxes.numpy() - boxes).max() < 1e-3
