"""Boxes answered on crops: like asking about the crop, in the frame of the picture, at a stated cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saqsam import api
from saqsam.datasets.coco import read_instances
from saqsam.images.crops import cut, paste, square_around
from saqsam.prompts.prompts import Prompts
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.zoom import CROP_FACTOR, SHARED_FACTOR, Answering, crops_for, segment_parts

SIZE = (300, 420)
SCENE = make_scene(np.random.default_rng(5), SIZE)


def small_boxes(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, np.array(SIZE[::-1]) - 40, (count, 2))
    return np.round(4 * np.concatenate([corner, corner + rng.uniform(6, 39, (count, 2))], axis=1)) / 4


def test_an_answer_is_the_crops_own(float_sam: Sam) -> None:
    for box in small_boxes(6):
        window = square_around(box, CROP_FACTOR, SIZE)
        corner = np.array(window[:2] * 2)
        found = float_sam.segment(SCENE.image, boxes=[box], zoom=True)
        alone = float_sam.segment(cut(SCENE.image, window), boxes=[box.astype(np.float32) - corner])
        assert np.array_equal(found.masks[0], paste(alone.masks[0], window, SIZE))
        assert found.iou_scores[0] == alone.iou_scores[0]
        assert found.encoder_passes == 1
        assert found.prompts.boxes.tolist() == [pytest.approx(box.tolist())]


def test_answers_stay_in_the_order_of_their_prompts(float_sam: Sam) -> None:
    boxes = small_boxes(9)
    together = float_sam.segment(SCENE.image, boxes=boxes, zoom=True, all_masks=True)
    assert len(together) == 27
    for row, box in enumerate(boxes):
        alone = float_sam.segment(SCENE.image, boxes=[box], zoom=True, all_masks=True)
        if together.encoder_passes == len(boxes):
            assert np.array_equal(together.masks[3 * row : 3 * row + 3], alone.masks)


def test_boxes_that_share_a_crop_share_its_pass(float_sam: Sam) -> None:
    box = [100.0, 80.0, 160.0, 130.0]
    boxes = [box, [101.0, 81.0, 158.0, 131.0], [300.0, 200.0, 340.0, 230.0], box]
    found = float_sam.segment(SCENE.image, boxes=boxes, zoom=True)
    assert found.encoder_passes == 2
    assert np.array_equal(found.masks[0], found.masks[3])
    assert float_sam.segment(SCENE.image, boxes=boxes).encoder_passes == 1


@given(
    st.lists(
        st.tuples(*[st.floats(0, 299, width=32)] * 2, *[st.floats(0.5, 300, width=32)] * 2),
        min_size=1,
        max_size=12,
    )
)
def test_every_box_lies_in_one_crop_that_is_not_much_longer(found: list[tuple[float, ...]]) -> None:
    table = np.array([[x, y, min(x + w, 420), min(y + h, 300)] for x, y, w, h in found])
    prompts = Prompts(boxes=torch.from_numpy(table.astype(np.float32)))
    crops = crops_for(prompts, *SIZE)
    assert sorted(row for crop in crops for row in crop.rows) == list(range(len(table)))
    for crop in crops:
        x0, y0, x1, y1 = crop.window
        assert 0 <= x0 < x1 <= 420
        assert 0 <= y0 < y1 <= 300
        for row in crop.rows:
            a, b, c, d = prompts.boxes[row].tolist()  # type: ignore[index]
            assert x0 <= a
            assert y0 <= b
            assert c <= x1
            assert d <= y1
            own = square_around((a, b, c, d), CROP_FACTOR, SIZE)
            longest = max(own[2] - own[0], own[3] - own[1])
            assert max(x1 - x0, y1 - y0) <= max(longest, SHARED_FACTOR * max(c - a, d - b))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_parts_do_not_change_answers_or_cost(float_sam: Sam, chunk: int) -> None:
    boxes = np.concatenate([small_boxes(7), small_boxes(7)])  # each crop is needed twice, far apart
    whole = float_sam.segment(SCENE.image, boxes=boxes, zoom=True)
    prompts = Prompts(boxes=torch.from_numpy(boxes.astype(np.float32)))
    parts = list(segment_parts(float_sam.model, SCENE.image, prompts, Answering(zoom=True), chunk=chunk))
    assert [len(part) for part in parts[:-1]] == [min(chunk, 14)] * (len(parts) - 1)
    assert np.array_equal(np.concatenate([part.masks for part in parts]), whole.masks)
    assert sum(part.encoder_passes for part in parts) == whole.encoder_passes <= 7


def test_clicks_go_along_and_clicks_alone_see_the_whole_picture(float_sam: Sam) -> None:
    box, click = [100.0, 80.0, 160.0, 130.0], [[170.0, 100.0]]  # the click lies outside of the box's crop
    found = float_sam.segment(SCENE.image, boxes=[box], points=[click], labels=[[0]], zoom=True)
    assert found.masks.shape == (1, *SIZE)
    zooming = replace(float_sam, zoom=True)
    plain = float_sam.segment(SCENE.image, points=click)
    assert np.array_equal(zooming.segment(SCENE.image, points=click).masks, plain.masks)
    masks = plain.low_res_logits
    refined = float_sam.segment(SCENE.image, boxes=[box], masks=masks)
    assert np.array_equal(zooming.segment(SCENE.image, boxes=[box], masks=masks).masks, refined.masks)


def test_logits_of_a_zoomed_answer_lie_in_the_frame_of_the_picture(float_sam: Sam) -> None:
    from saqsam.families.framing import frame_for
    from saqsam.segment.predictor import upscale_masks

    found = float_sam.segment(SCENE.image, boxes=SCENE.boxes, zoom=True)
    coarse = upscale_masks(found.low_res_logits, frame_for(float_sam.model, *SIZE))[:, 0].numpy()
    for mask, other in zip(found.masks, coarse, strict=True):
        if mask.sum() > 2000:  # small ones have few cells of the whole picture
            assert (mask & other).sum() / (mask | other).sum() > 0.85
    again = float_sam.segment(SCENE.image, boxes=SCENE.boxes, masks=found.low_res_logits)
    assert again.nan_count == 0


@pytest.mark.parametrize("zoom", [False, True])
def test_clipped_answers_are_the_same_inside_the_box_and_nothing_outside(float_sam: Sam, zoom: bool) -> None:
    boxes = small_boxes(5)
    plain = float_sam.segment(SCENE.image, boxes=boxes, zoom=zoom)
    found = float_sam.segment(SCENE.image, boxes=boxes, zoom=zoom, clip_to_box=True)
    for mask, other, (x0, y0, x1, y1) in zip(found.masks, plain.masks, boxes, strict=True):
        inside = np.zeros(SIZE, dtype=bool)
        inside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
        assert np.array_equal(mask, other & inside)


def test_small_objects_are_found_better(float_sam: Sam, coco50: Any) -> None:
    dataset = read_instances(coco50.annotations, coco50.images).first(8)
    plain = api.evaluate(float_sam, coco50.images, coco50.annotations, limit=8)
    zoomed = api.evaluate(
        float_sam.answering_boxes(zoom=True, clip_to_box=True), coco50.images, coco50.annotations, limit=8
    )
    assert len(dataset) == 8
    assert zoomed.mIoU > plain.mIoU + 0.15
    assert (plain.zoom, plain.encoder_passes) == (False, 8)
    assert zoomed.zoom
    assert zoomed.clip_to_box
    assert 8 < zoomed.encoder_passes <= zoomed.instances


def test_the_default_belongs_to_the_model_and_goes_with_it(float_sam: Sam, tmp_path: Path) -> None:
    assert not api.load("nano").zoom
    annotations = write_scenes(tmp_path / "scenes", 2, 3)
    made = replace(float_sam, zoom=True)
    quantized = api.quantize(made, "rtn-w8a8", tmp_path / "scenes" / "images", annotations)
    assert quantized.zoom
    quantized.save(tmp_path / "a.safetensors")
    again = api.load(tmp_path / "a.safetensors")
    assert again.zoom
    box = small_boxes(1)
    assert np.array_equal(
        again.segment(SCENE.image, boxes=box).masks, again.segment(SCENE.image, boxes=box, zoom=True).masks
    )
    assert again.segment(SCENE.image, boxes=box, zoom=False).encoder_passes == 1


def test_several_images_zoom_alike(float_sam: Sam) -> None:
    boxes = small_boxes(3)
    alone = float_sam.segment(SCENE.image, boxes=boxes, zoom=True, clip_to_box=True)
    many = float_sam.segment_many([SCENE.image] * 2, boxes=[boxes, None], zoom=True, clip_to_box=True)
    assert np.array_equal(many[0].masks, alone.masks)
    assert many[1].masks.shape == (0, *SIZE)
    assert many[0].encoder_passes == alone.encoder_passes
