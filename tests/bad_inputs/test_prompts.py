"""Prompts that mean nothing: one line that names the first wrong one by its index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import SamModel

from saqsam.errors import PromptError
from saqsam.prompts.prompts import Prompts, checked_boxes, checked_masks, checked_points, checked_prompts
from saqsam.sam import Sam

WIDTH, HEIGHT = 40, 30
GOOD = [1.0, 2.0, 20.0, 10.0]
NAN, INF = float("nan"), float("inf")


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(PromptError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([5, 5, 5, 9], "has no area"),
        ([5, 5, 9, 5], "has no area"),
        ([5, 5, 5, 5], "has no area"),
        ([9, 5, 5, 9], "is inverted"),
        ([5, 9, 9, 5], "is inverted"),
        ([-9, -9, -1, -1], "wholly outside the 40 x 30 image"),
        ([-9, 2, 0, 9], "wholly outside"),
        ([40, 2, 50, 9], "wholly outside"),
        ([2, 30, 9, 50], "wholly outside"),
        ([NAN, 2, 9, 9], "not a finite number"),
        ([1, 2, 9, NAN], "not a finite number"),
        ([1, 2, INF, 9], "not a finite number"),
        ([-INF, 2, 5, 9], "not a finite number"),
        ([2**63 - 1, 2, 2**63 - 1, 9], "has no area"),
        ([2**62, 2, 2**63 - 1, 9], "wholly outside"),
        ([39.9999999999, 2, 60, 9], "has no area left"),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_a_box_without_meaning_is_named_by_its_index(box: list[float], words: str, as_array: bool) -> None:
    boxes: Any = [GOOD, GOOD, box, GOOD]
    boxes = np.array(boxes, np.float64) if as_array else boxes
    message = refused(checked_boxes, boxes, WIDTH, HEIGHT, where="a.json: boxes")
    assert message.startswith("a.json: boxes: box 2 [")
    assert words in message


def test_several_such_boxes_are_counted() -> None:
    message = refused(checked_boxes, [GOOD, [3, 3, 3, 3], [4, 4, 4, 4]], WIDTH, HEIGHT, where="boxes")
    assert "box 1" in message
    assert "2 such in all" in message


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([1, 2, 3], "(P, 4)"),
        ([[1, 2, 3]], "(P, 4)"),
        ([[1, 2, 3, 4, 5]], "(P, 4)"),
        ([[GOOD]], "(P, 4)"),
        ([GOOD, [1, 2]], "four numbers"),
        ("1,2,3,4", "four numbers"),
        ([["1", "2", "3", "4"]], "box 0 holds '1'"),
        ([[1, 2, None, 4]], "box 0 holds None"),
        ([[True, 2, 3, 4]], "box 0 holds True"),
        (7, "four numbers"),
        ({"x": 1}, "four numbers"),
        (np.array([["a"] * 4]), "four numbers"),
        (np.array([[1 + 2j] * 4]), "four numbers"),
        ([[10**400, 2, 3, 4]], "four numbers"),
    ],
)
def test_what_is_no_table_of_boxes(boxes: Any, words: str) -> None:
    assert words in refused(checked_boxes, boxes, WIDTH, HEIGHT, where="boxes")


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), torch.zeros(0, 4)])
def test_no_boxes_are_no_boxes(boxes: Any) -> None:
    found, clipped = checked_boxes(boxes, WIDTH, HEIGHT, where="boxes")
    assert found.shape == (0, 4)
    assert clipped == 0


def test_boxes_that_reach_past_the_image_are_clipped_and_counted() -> None:
    boxes = [[-5, -5, 20, 20], [0, 0, 40, 30], [30, 20, 2**63 - 1, 1e300]]
    found, clipped = checked_boxes(boxes, WIDTH, HEIGHT, where="boxes")
    assert found.tolist() == [[0, 0, 20, 20], [0, 0, 40, 30], [30, 20, 40, 30]]
    assert clipped == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float64])
def test_tensors_of_any_number_type_are_taken(dtype: torch.dtype) -> None:
    found, _ = checked_boxes(torch.tensor([GOOD]).to(dtype), WIDTH, HEIGHT, where="boxes")
    assert found.tolist() == [GOOD]
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("points", "labels", "words"),
    [
        ([[1, 1], [50, 1]], None, "prompt 1 [[50.0, 1.0]] has a point outside the 40 x 30 image"),
        ([[1, 1], [1, -0.5]], None, "prompt 1"),
        ([[1, 1], [NAN, 1]], None, "prompt 1"),
        ([[[1, 1], [2, 2]], [[3, 3]]], [[1, 1], [1, 0]], "one label for each click"),
        ([[[1, 1], [2, 2]], [[3, 3]]], [1, 0], "one label for each click"),
        ([[[1, 1], [2, 2]], [[50, 3]]], None, "prompt 1"),
        ([[[1, 1], [2]], [[3, 3]]], None, "x, y"),
        ([[1, 1, 1]], None, "(P, K, 2)"),
        (np.zeros((2, 0, 2)), None, "(P, K, 2)"),
        ([[1, 1], [2, 2]], [1, 2], "prompt 1 [2.0] has a label other than 1"),
        ([[1, 1], [2, 2]], [1, -2], "label other than 1"),
        ([[1, 1], [2, 2]], [1, 0.5], "label other than 1"),
        ([[1, 1], [2, 2]], [1, NAN], "label other than 1"),
        ([[1, 1], [2, 2]], [1], "need labels of that shape"),
        ([[1, 1], [2, 2]], [[1, 0], [1, 0]], "need labels of that shape"),
        ([[1, 1]], ["1"], "label 0 holds '1'"),
        ([[1, 1]], [True], "label 0 holds True"),
    ],
)
def test_points_and_labels_without_meaning(points: Any, labels: Any, words: str) -> None:
    assert words in refused(checked_points, points, labels, WIDTH, HEIGHT, where="points")


def test_points_on_the_border_are_on_the_image() -> None:
    points, labels = checked_points([[0, 0], [40, 30]], None, WIDTH, HEIGHT, where="points")
    assert points.shape == (2, 1, 2)
    assert labels.tolist() == [[1], [1]]


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 16, 8), (2, 3, 16, 16), (8, 8), (2, 1, 16, 16, 1)])
def test_masks_of_another_size(shape: tuple[int, ...]) -> None:
    message = refused(checked_masks, np.zeros(shape), 16, where="masks")
    assert "(P, 1, 16, 16)" in message


def test_a_mask_with_nan_is_named() -> None:
    masks = np.zeros((3, 1, 16, 16))
    masks[2, 0, 5, 5] = NAN
    assert "mask 2 " in refused(checked_masks, masks, 16, where="masks")


def test_fields_that_disagree() -> None:
    assert "labels were given without points" in refused(checked_prompts, 40, 30, labels=[1])
    message = refused(checked_prompts, 40, 30, boxes=[GOOD, GOOD], points=[[1, 1]])
    assert "2 boxes, 1 points" in message
    assert "2 boxes, 1 points" in refused(
        checked_prompts, 40, 30, boxes=[GOOD] * 2, points=[[[1, 1], [2, 2]]]
    )
    with pytest.raises(PromptError, match="must have shape"):
        Prompts(boxes=torch.zeros(3))


def test_the_model_is_never_asked_a_wrong_question(tiny_sam: SamModel) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    sam = Sam(tiny_sam, "tiny")
    assert "box 1" in refused(sam.segment, pixels, boxes=[GOOD, [9, 9, 3, 3]])
    assert "prompt 0" in refused(sam.segment, pixels, points=[[99, 1]])


@pytest.mark.parametrize("asked", [{}, {"boxes": []}, {"points": []}, {"boxes": np.zeros((0, 4))}])
def test_nothing_asked_gives_an_empty_result(tiny_sam: SamModel, asked: dict[str, Any]) -> None:
    found = Sam(tiny_sam, "tiny").segment(np.zeros((HEIGHT, WIDTH, 3), np.uint8), **asked)
    assert found.masks.shape == (0, HEIGHT, WIDTH)
    assert found.iou_scores.shape == (0,)
    assert found.to_coco(1, []) == []
    assert found.draw(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).width >= WIDTH
