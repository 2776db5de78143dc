"""YOLOX against a second implementation that reads the published names straight from the file's tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.detectors.conftest import awake, read_results
from torch import Tensor
from torch.nn import functional as F

from saqsam.detectors.detections import Detections
from saqsam.detectors.weights import Row, fill, plain_table
from saqsam.detectors.yolox import YoloxDetector, load_yolox
from saqsam.detectors.yolox_network import Yolox, YoloxSizes
from saqsam.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint

SMALL = YoloxSizes(width=8, depths=(1, 2, 1, 1), neck_depth=1, classes=80)


def test_yolox_l_has_its_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = Yolox(YoloxSizes())
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_208_895
    names = set(network.state_dict())
    for name in (
        "backbone.stem.conv.conv.weight",
        "backbone.stage2.1.blocks.8.conv2.bn.running_var",
        "backbone.stage4.1.conv2.conv.weight",
        "backbone.stage4.2.short_conv.conv.weight",
        "neck.reduce_layers.1.conv.weight",
        "neck.bottom_up_blocks.0.blocks.2.conv1.conv.weight",
        "neck.out_convs.2.bn.bias",
        "bbox_head.multi_level_reg_convs.2.1.conv.weight",
        "bbox_head.multi_level_conv_obj.0.bias",
    ):
        assert name in names


@pytest.fixture(scope="module")
def network() -> Yolox:
    network = awake(Yolox(SMALL), seed=5)
    # Real ones start near "no object"; so that suppression has work but not for every cell.
    for convolution in network.bbox_head.multi_level_conv_obj:
        convolution.bias.data.fill_(-1.0)
    for convolution in network.bbox_head.multi_level_conv_reg:
        convolution.bias.data[2:] += 1.0
    return network.requires_grad_(False)


def write_file(network: Yolox, path: Path, legacy: bool = True) -> Path:
    """As mmdet publishes: {'meta': ..., 'state_dict': ...} in PyTorch's old format."""
    meta = {"CLASSES": ("person", "bicycle"), "config": "model = dict(...)", "epoch": 300}
    torch.save(
        {"meta": meta, "state_dict": network.state_dict()}, path, _use_new_zipfile_serialization=not legacy
    )
    return path


class PlainYolox:
    """The paper's network in functions of a dictionary of tensors; nothing of ``saqsam`` in it."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.t = tensors

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.t[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            self.t[f"{name}.bn.{key}"][None, :, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-3).sqrt() * scale + shift
        return x * torch.sigmoid(x)

    def csp(self, name: str, x: Tensor, depth: int, add: bool) -> Tensor:
        main, short = self.conv(f"{name}.main_conv", x), self.conv(f"{name}.short_conv", x)
        for i in range(depth):
            y = self.conv(f"{name}.blocks.{i}.conv2", self.conv(f"{name}.blocks.{i}.conv1", main))
            main = main + y if add else y
        return self.conv(f"{name}.final_conv", torch.cat([main, short], 1))

    def backbone(self, x: Tensor) -> list[Tensor]:
        patches = [x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]]
        x = self.conv("backbone.stem.conv", torch.cat(patches, 1))
        maps = []
        for stage, depth in enumerate(SMALL.depths, start=1):
            x = self.conv(f"backbone.stage{stage}.0", x, 2)
            if stage == 4:
                x = self.conv("backbone.stage4.1.conv1", x)
                pools = [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]
                x = self.conv("backbone.stage4.1.conv2", torch.cat([x, *pools], 1))
            x = self.csp(f"backbone.stage{stage}.{2 if stage == 4 else 1}", x, depth, stage < 4)
            maps.append(x)
        return maps[1:]

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        inner = [maps[2]]
        for i, low in enumerate((maps[1], maps[0])):
            inner[0] = self.conv(f"neck.reduce_layers.{i}", inner[0])
            up = inner[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
            inner.insert(0, self.csp(f"neck.top_down_blocks.{i}", torch.cat([up, low], 1), 1, False))
        outs = [inner[0]]
        for i in range(2):
            down = self.conv(f"neck.downsamples.{i}", outs[-1], 2)
            outs.append(self.csp(f"neck.bottom_up_blocks.{i}", torch.cat([down, inner[i + 1]], 1), 1, False))
        return [self.conv(f"neck.out_convs.{i}", one) for i, one in enumerate(outs)]

    def boxes(self, image: Tensor) -> list[tuple[list[float], float, int]]:
        """Every cell's box (corners in input pixels), score and label, by one loop over cells."""
        found = []
        for level, one in enumerate(self.neck(self.backbone(image))):
            head, stride = "bbox_head.multi_level", 8 * 2**level
            cls = reg = one
            for i in range(2):
                cls = self.conv(f"{head}_cls_convs.{level}.{i}", cls)
                reg = self.conv(f"{head}_reg_convs.{level}.{i}", reg)
            outputs = {}
            for kind, x in (("cls", cls), ("reg", reg), ("obj", reg)):
                name = f"{head}_conv_{kind}.{level}"
                outputs[kind] = F.conv2d(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])[0]
            for row in range(one.shape[2]):
                for column in range(one.shape[3]):
                    dx, dy, dw, dh = outputs["reg"][:, row, column].tolist()
                    x, y = (column + dx) * stride, (row + dy) * stride
                    w, h = np.exp(dw) * stride, np.exp(dh) * stride
                    scores = outputs["cls"][:, row, column].sigmoid()
                    score = float(scores.max() * outputs["obj"][0, row, column].sigmoid())
                    found.append(([x - w / 2, y - h / 2, x + w / 2, y + h / 2], score, int(scores.argmax())))
        return found


@pytest.mark.parametrize("legacy", [True, False])
def test_a_published_file_gives_back_every_tensor(network: Yolox, tmp_path: Path, legacy: bool) -> None:
    detector = load_yolox(write_file(network, tmp_path / "yolox.pth", legacy), sizes=SMALL)
    wanted = network.state_dict()
    found = detector.network.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not detector.network.training
    assert not any(parameter.requires_grad for parameter in detector.network.parameters())


def test_boxes_agree_with_the_second_implementation(network: Yolox) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    found = YoloxDetector(network, input_side=96).detect(pixels)  # 189 cells, not 8,400
    # 96 / 75 = 1.28: the image becomes 96 x 64, top left; below it is grey.
    height, width = 64, 96
    scaled = F.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), size=(height, width), mode="bilinear"
    ).round()
    image = torch.full((1, 3, 96, 96), 114.0)
    image[:, :, :height, :width] = scaled[:, [2, 1, 0]]
    left = sorted(
        (one for one in PlainYolox(network.state_dict()).boxes(image) if one[1] >= 0.01),
        key=lambda one: -one[1],
    )
    kept: list[tuple[list[float], float, int]] = []
    for box, score, label in left:
        if all(label != other or overlap(box, seen) <= 0.65 for seen, _, other in kept):
            kept.append((box, score, label))
    assert 20 < len(kept) < 189
    assert found.labels.tolist() == [label for _, _, label in kept]
    assert np.abs(found.scores.numpy() - [score for _, score, _ in kept]).max() < 1e-5
    boxes = np.array([box for box, _, _ in kept]) / 1.28
    assert np.abs(found.boxes.numpy() - boxes).max() < 1e-3 * np.abs(boxes).max()


def overlap(a: list[float], b: list[float]) -> float:
    across = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    down = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    return across * down / union


def test_weak_boxes_are_dropped_and_none_is_a_result(network: Yolox) -> None:
    quiet = Yolox(SMALL)
    quiet.load_state_dict(network.state_dict())
    for convolution in quiet.bbox_head.multi_level_conv_obj:
        convolution.bias.data.fill_(-200.0)
    found = YoloxDetector(quiet.eval()).detect(np.zeros((20, 30, 3), np.uint8))
    assert isinstance(found, Detections)
    assert len(found) == 0


def test_weights_of_another_model_are_refused_by_name(network: Yolox, tmp_path: Path) -> None:
    path = write_file(network, tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"has shape \(8, 12, 3, 3\), expected \(64, 12, 3, 3\)"):
        fill_full(path)
    state = network.state_dict()
    del state["neck.out_convs.0.conv.weight"]
    state["backbone.extra"] = torch.zeros(1)
    state["ema_backbone_stem_conv_conv_weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, path)
    with pytest.raises(
        CheckpointError,
        match=r"not the weights of YOLOX-L: 1 tensors are missing \(neck\.out_convs\.0\.conv\.weight\) "
        r"and 1 tensors are unexpected \(backbone\.extra\)",
    ):
        load_yolox(path, sizes=SMALL)
    state = {**network.state_dict(), "backbone.stem.conv.conv.weight": torch.full((8, 12, 3, 3), torch.nan)}
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_yolox(path, sizes=SMALL)


def fill_full(path: Path) -> None:
    """As ``load_yolox`` with the full sizes, but with the small number of blocks so that names agree."""
    with torch.device("meta"):
        full = Yolox(YoloxSizes(depths=SMALL.depths, neck_depth=1))
    fill(full, path, plain_table(full))


def test_a_fused_tensor_is_cut_into_its_parts(tmp_path: Path) -> None:
    torch.save({"model": {"qkv": torch.arange(12.0).reshape(6, 2)}}, tmp_path / "w.pth")
    layer = torch.nn.Linear(2, 2, bias=False)
    fill(layer, tmp_path / "w.pth", {"weight": Row("qkv", part=1, parts=3)})
    assert layer.weight.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    fill(layer, tmp_path / "w.pth", {"weight": Row("qkv", first=2)})
    assert layer.weight.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    with pytest.raises(CheckpointError, match=r"'qkv' has shape \(6, 2\), expected \(8, 2\)"):
        fill(layer, tmp_path / "w.pth", {"weight": Row("qkv", part=0, parts=4)})


class Canary:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (str(self.path),)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    canary, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"meta": Canary(canary), "state_dict": {"x": torch.zeros(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeCheckpoint, match="nothing was run"):
        load_yolox(path, sizes=SMALL)
    assert not canary.exists()


def test_an_old_file_cut_short_or_claiming_too_much_is_refused(network: Yolox, tmp_path: Path) -> None:
    path = write_file(network, tmp_path / "yolox.pth")
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 100, 20, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_yolox(path, sizes=SMALL)
    big = torch.zeros(3).expand(3)
    torch.save({"state_dict": {"x": big}}, path, _use_new_zipfile_serialization=False)
    lying = path.read_bytes().replace(b"K\x03N", b"\x8a\x05\x00\x00\x00\x00\x08N")  # 3 becomes 2^35 elements
    assert lying != path.read_bytes()
    path.write_bytes(lying)
    with pytest.raises(CorruptCheckpoint, match=r"claim 137,438,953,472 bytes"):
        load_yolox(path, sizes=SMALL)


def test_from_the_command_line(
    saqsam: Callable[..., tuple[int, str, str]],
    network: Yolox,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import saqsam.detectors.yolox as module

    monkeypatch.setattr(module, "YoloxSizes", lambda: SMALL)  # the command line knows the real sizes alone
    quiet = Yolox(SMALL)
    quiet.load_state_dict(network.state_dict())
    for convolution in quiet.bbox_head.multi_level_conv_obj:
        convolution.bias.data.fill_(-4.6)  # hundreds of boxes instead of thousands
    weights, out = write_file(quiet, tmp_path / "yolox.pth"), tmp_path / "d.json"
    words = ("--detector", "yolox-l", "--annotations", scenes / "instances.json", "--limit", 2, "--out", out)
    code, text, err = saqsam("detect", scenes / "images", *words, "--weights", weights)
    assert (code, err) == (0, "")
    assert "boxes on 2 images" in text
    assert len(read_results(out)) > 20
    code, _, err = saqsam("detect", scenes / "images", *words, "--force")
    assert code == 2
    assert "needs --weights FILE" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "this is a web page, did the download fail?"),
        (b"\x80\x02not a pickle at all", "damaged"),
        (b"just text", "not a file of PyTorch weights"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_one_line(
    saqsam: Callable[..., tuple[int, str, str]], scenes: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    weights, out = tmp_path / "weights.bin", tmp_path / "d.json"
    weights.write_bytes(content)
    for name in ("yolox-l", "faster-rcnn-r50"):
        words = ("--detector", name, "--weights", weights, "--out", out)
        code, _, err = saqsam("detect", scenes / "images", *words)
        assert code == 3
        assert said in err
        assert err.count("\n") == 1
        assert not out.exists()
