"""Masks, any number of clicks, all three masks: on every engine the answer of asking one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saqsam import api
from saqsam.errors import ImageError, PromptError
from saqsam.families.framing import frame_for
from saqsam.prompts.mask_files import logits_of_mask, read_masks
from saqsam.sam import Sam
from saqsam.scenes import make_scene
from saqsam.segment.result import Segmentation

SCENE = make_scene(np.random.default_rng(3), (96, 128))
CLICKS = [[[20, 20], [30, 30]], [[60, 60]], [[100, 20], [90, 30], [80, 40]]]
LABELS = [[1, 0], [1], [1, 1, 0]]


@pytest.fixture(params=["float", "torch", "onnxruntime", "int8"])
def sam(request: pytest.FixtureRequest, packed_sam: Sam) -> Sam:
    if request.param == "float":
        return api.load("nano")
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    return api.load(str(packed_sam.file), engine=request.param)


def same(one: Segmentation, other: Segmentation, rows: Any = slice(None)) -> None:
    """Equal up to the order of float additions."""
    assert np.allclose(one.iou_scores[rows], other.iou_scores, atol=1e-4)
    assert (one.masks[rows] != other.masks).mean() < 1e-3


def test_clicks_of_any_number_get_the_answers_of_one_call_each(sam: Sam) -> None:
    together = sam.segment(SCENE.image, points=CLICKS, labels=LABELS)
    for row in range(3):
        same(together, sam.segment(SCENE.image, points=[CLICKS[row]], labels=[LABELS[row]]), [row])
    table, kinds = np.full((3, 3, 2), -1.0), np.full((3, 3), -1)
    for row, (clicks, labels) in enumerate(zip(CLICKS, LABELS, strict=True)):
        places = [2, 0, 1][: len(clicks)] if len(clicks) < 3 else range(3)  # padding may stand anywhere
        order = sorted(places)
        table[row, order], kinds[row, order] = clicks, labels
    padded = sam.segment(SCENE.image, points=table, labels=kinds)
    assert torch.equal(padded.low_res_logits, together.low_res_logits)
    assert [len(clicks) for clicks in together.prompts.clicks() or ()] == [2, 1, 3]
    together.draw(SCENE.image)


def test_boxes_with_and_without_clicks(sam: Sam) -> None:
    boxes = SCENE.boxes[:2]
    found = sam.segment(SCENE.image, boxes=boxes, points=[[], [[60, 60]]], labels=[[], [0]])
    same(found, sam.segment(SCENE.image, boxes=boxes[:1]), [0])
    same(found, sam.segment(SCENE.image, boxes=boxes[1:], points=[[60, 60]], labels=[0]), [1])


def test_masks_refine_and_stand_alone(sam: Sam) -> None:
    first = sam.segment(SCENE.image, boxes=SCENE.boxes)
    for prompts in ({"boxes": SCENE.boxes}, {}):
        found = sam.segment(SCENE.image, **prompts, masks=first.low_res_logits)
        flat = sam.segment(SCENE.image, **prompts, masks=first.low_res_logits[:, 0].numpy())
        assert torch.equal(found.low_res_logits, flat.low_res_logits)
        assert not torch.equal(found.low_res_logits, first.low_res_logits)
        for row in range(len(first)):
            own = {name: value[row : row + 1] for name, value in prompts.items()}
            alone = sam.segment(SCENE.image, **own, masks=first.low_res_logits[row, 0])
            same(found, alone, [row])


def test_all_masks_hold_the_best_one(sam: Sam) -> None:
    every = sam.segment(SCENE.image, boxes=SCENE.boxes, all_masks=True)
    best = sam.segment(SCENE.image, boxes=SCENE.boxes, multimask_output=True)
    assert len(every) == 3 * len(best)
    scores = every.iou_scores.reshape(-1, 3)
    assert np.array_equal(scores.max(1), best.iou_scores)
    rows = 3 * np.arange(len(best)) + scores.argmax(1)
    assert np.array_equal(every.masks[rows], best.masks)
    assert torch.equal(every.prompts.boxes[::3], best.prompts.boxes)
    assert len(every.to_coco(1, [1] * len(every))) == len(every)


def test_one_box_and_one_click_need_no_second_bracket(float_sam: Sam) -> None:
    box = SCENE.boxes[0].tolist()
    same(float_sam.segment(SCENE.image, boxes=box), float_sam.segment(SCENE.image, boxes=[box]))
    one = float_sam.segment(SCENE.image, points=[60, 60], labels=1)
    same(one, float_sam.segment(SCENE.image, points=[[60, 60]], labels=[1]))
    two = float_sam.segment(SCENE.image, points=[[[60, 60], [5, 5]]], labels=[1, 0])
    same(two, float_sam.segment(SCENE.image, points=[[[60, 60], [5, 5]]], labels=[[1, 0]]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"points": [[[1, 1]], []]}, "prompt 1 has neither a box nor a click"),
        ({"points": [[1, 1], [2, 2]], "labels": [1, -1]}, "prompt 1 has neither"),
        ({"boxes": [[1, 1, 9, 9]], "masks": np.zeros((2, 64, 64))}, "every prompt needs its own row"),
        ({"boxes": [1, 1, 9, 9], "points": [[1, 1], [2, 2]]}, r"one object have shape \(1, K, 2\)"),
        ({"boxes": np.ma.masked_less([[1, 1, 9, 9], [0, 0, 9, 9]], 1)}, "masked"),
        ({"boxes": torch.zeros(1, 4, device="meta")}, "four numbers x0, y0, x1, y1, got Tensor"),
        ({"boxes": torch.zeros(1, 4).to_sparse()}, "four numbers x0, y0, x1, y1, got Tensor"),
        ({"masks": np.zeros((1, 96, 128))}, "low-resolution logits"),
        ({"masks": np.full((64, 64), 1e300)}, "not a finite number in float32"),
        ({"masks": np.eye(64)}, "holds 0 and 1 alone, but logits are negative"),
        ({"points": [[1, 1]], "zoom": True}, "no boxes"),
        ({"points": [[1, 1]], "clip_to_box": True}, "no boxes"),
        ({"boxes": [1, 1, 9, 9], "masks": np.zeros((64, 64)), "zoom": True}, "frame of the whole image"),
    ],
)
def test_prompts_that_contradict_each_other(float_sam: Sam, given: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        float_sam.segment(SCENE.image, **given)


def test_tensors_in_lists_and_of_short_floats(float_sam: Sam) -> None:
    corners = torch.tensor(SCENE.boxes[0], dtype=torch.float32)
    expected = float_sam.segment(SCENE.image, boxes=corners).low_res_logits
    for boxes in ([corners.clone().requires_grad_()], corners.to(torch.bfloat16)[None], [tuple(corners)]):
        assert torch.equal(float_sam.segment(SCENE.image, boxes=boxes).low_res_logits, expected)


def test_files_of_masks(float_sam: Sam, tmp_path: Path) -> None:
    frame = frame_for(float_sam.model, 96, 128)
    mask = SCENE.mask(0)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    logits = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    found = read_masks([tmp_path / "logits.npy", tmp_path / "mask.png"], frame, 64)
    assert np.array_equal(found[:2], logits)
    assert np.array_equal(found[2], logits_of_mask(mask, frame, 64))
    Image.fromarray(mask.astype(np.uint8) * 3).save(tmp_path / "label.png")
    assert np.array_equal(read_masks([tmp_path / "label.png"], frame, 64)[0], found[2])
    answer = float_sam.segment(SCENE.image, boxes=SCENE.boxes[0], masks=found[2]).masks[0]
    assert (answer & mask).sum() / (answer | mask).sum() > 0.7


def test_files_that_hold_no_mask(tmp_path: Path, float_sam: Sam) -> None:
    frame = frame_for(float_sam.model, 96, 128)
    for name, values in (("size", np.zeros((2, 8, 8))), ("text", np.array(["a"])), ("flat", np.zeros(64))):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(PromptError, match=r"expected \(64, 64\)"):
            read_masks([tmp_path / f"{name}.npy"], frame, 64)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "size.npy").read_bytes()[:200])
    for name in ("objects", "cut"):
        with pytest.raises(PromptError, match="not a numpy file"):
            read_masks([tmp_path / f"{name}.npy"], frame, 64)
    np.savez(tmp_path / "several.npz", a=np.zeros((64, 64)))
    with pytest.raises(PromptError, match="archive of several arrays"):
        read_masks([(tmp_path / "several.npz").rename(tmp_path / "several.npy")], frame, 64)
    for name, values in (("black", [0]), ("grey", [0, 40, 99])):
        Image.fromarray(np.resize(np.array(values, np.uint8), (96, 128))).save(tmp_path / f"{name}.png")
        with pytest.raises(ImageError, match="give one with the object in white"):
            read_masks([tmp_path / f"{name}.png"], frame, 64)
    Image.new("L", (64, 64)).save(tmp_path / "small.png")
    with pytest.raises(ImageError, match="64 x 64 pixels, the image 128 x 96"):
        read_masks([tmp_path / "small.png"], frame, 64)
