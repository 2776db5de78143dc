"""The SAM 2 that comes with the package segments scenes, and most of that is left at 4 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saqsam import api
from saqsam.families.framing import preprocess
from saqsam.pack.file import read_packed
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes

Scores = dict[str, list[float]]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return api.load("nano-sam2")


def _scores(sam: Sam, count: int) -> Scores:
    """IoU of every object asked by its box and by a click, and how sure the model is of the clicked ones."""
    found: Scores = {"boxes": [], "clicks": [], "sure": [], "ellipse": []}
    for seed in range(count):
        scene = make_scene(np.random.default_rng([71, seed]), (128, 128))
        truths = [scene.mask(number) for number in range(len(scene))]
        places = [np.argwhere(truth)[truth.sum() // 2][::-1].tolist() for truth in truths]
        by_box = sam.segment(scene.image, boxes=scene.boxes)
        by_click = sam.segment(scene.image, points=[[place] for place in places], labels=[[1]] * len(places))
        for kind, result in (("boxes", by_box), ("clicks", by_click)):
            masks = np.asarray(result.masks).reshape(len(truths), 128, 128)
            found[kind] += [_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
        found["sure"] += np.asarray(by_click.object_scores).flatten().tolist()
        found["ellipse"] += [
            _iou(_ellipse(box), truth) for box, truth in zip(scene.boxes, truths, strict=True)
        ]
    return found


def _iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def _ellipse(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:128, :128] + 0.5
    across, down = (x - (x0 + x1) / 2) / ((x1 - x0) / 2), (y - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return np.asarray(across**2 + down**2 <= 1)


def test_it_finds_objects_from_boxes_and_clicks_and_is_sure_of_them(sam: Sam) -> None:
    found = {kind: float(np.mean(values)) for kind, values in _scores(sam, 6).items()}
    assert found["boxes"] > found["ellipse"] + 0.1
    assert found["clicks"] > found["ellipse"] + 0.05
    assert found["sure"] > 0.8


def test_a_click_on_nothing_is_not_sure(sam: Sam) -> None:
    scores = []
    for seed in range(6):
        scene = make_scene(np.random.default_rng([71, seed]), (128, 128))
        y, x = np.argwhere(scene.labels == 0)[:: max(1, (scene.labels == 0).sum() // 4)][1]
        found = sam.segment(scene.image, points=[[[int(x), int(y)]]], labels=[[1]])
        scores.append(float(np.asarray(found.object_scores).flatten()[0]))
    assert np.mean(scores) < 0.5


def test_four_bits_keep_most_of_it(sam: Sam, tmp_path: Path) -> None:
    write_scenes(tmp_path, 4, 72)
    four = api.quantize(sam, "ptq4sam-s-w4a4", tmp_path / "images", tmp_path / "instances.json")
    before, after = (np.mean(_scores(model, 6)["boxes"]) for model in (sam, four))
    assert after > 0.85 * before
    onnx_makes_the_same_codes(four, tmp_path / "four.safetensors")


def onnx_makes_the_same_codes(sam: Sam, path: Path) -> None:
    """Also where a layer's output is rounded at once, and ONNX Runtime would round its bias with it."""
    pytest.importorskip("onnxruntime")
    from saqsam.export.codes import encoder_codes, total_share
    from saqsam.graphs.portable import Portable
    from saqsam.graphs.sam2_source import Sam2Source

    sam.save(path)
    pixels, _ = preprocess(sam.model, make_scene(np.random.default_rng([71, 0]), (128, 128)).image)
    shares = encoder_codes(sam.model, Sam2Source(read_packed(path)), Portable, pixels, 21)
    assert total_share(shares) > 0.999
    for name in ("conv_s0", "conv_s1"):
        equal, total = shares[f"mask_decoder.{name}:input"]
        assert equal > 0.9999 * total, name
