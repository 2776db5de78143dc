"""Several images in one call: the answers of one call each, every image encoded once, few together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import SamModel

from saqsam.errors import ImageError, PromptError, UsageError
from saqsam.families.framing import frame_for
from saqsam.sam import Sam
from saqsam.scenes import make_scene
from saqsam.segment.result import Segmentation

SIZES = [(96, 128), (128, 80), (60, 61), (128, 128), (70, 140)]


def picture(index: int) -> np.ndarray:
    return make_scene(np.random.default_rng([6, index]), SIZES[index]).image


def boxes_on(size: tuple[int, int], count: int) -> np.ndarray:
    rng = np.random.default_rng([count, *size])
    corner = rng.uniform(0, np.array(size[::-1]) - 30, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 29, (count, 2))], axis=1)


def ragged() -> dict[str, list[Any]]:
    """Five pictures: three boxes, nothing, forty boxes, two clicks on each of two objects, box and click."""
    return {
        "boxes": [boxes_on(SIZES[0], 3), None, boxes_on(SIZES[2], 40), None, [[-9, 5, 60, 60]]],
        "points": [None, None, None, [[[20, 30], [50, 60]], [[90, 90], [10, 100]]], [[[30, 30]]]],
        "labels": [None, None, None, [[1, 0], [1, 1]], None],
    }


def enlarged(found: Segmentation, model: SamModel) -> np.ndarray:
    """Logits in pixels of the image, as the paper's predictor enlarges them."""
    height, width = found.masks.shape[1:]
    frame = frame_for(model, height, width)
    large = F.interpolate(found.low_res_logits, (frame.size, frame.size), mode="bilinear")
    large = large[..., : frame.resized[0], : frame.resized[1]]
    return F.interpolate(large, (height, width), mode="bilinear")[:, 0].numpy()


@pytest.mark.parametrize("batch", [None, 2, 5])
@pytest.mark.parametrize("multimask_output", [False, True])
def test_answers_are_those_of_one_call_each(
    float_sam: Sam, batch: int | None, multimask_output: bool
) -> None:
    images, asked = [picture(index) for index in range(5)], ragged()
    many = float_sam.segment_many(images, **asked, multimask_output=multimask_output, batch=batch)
    assert [len(found) for found in many] == [3, 0, 40, 2, 1]
    assert [found.clipped_boxes for found in many] == [0, 0, 0, 0, 1]
    for index, found in enumerate(many):
        own = {name: entries[index] for name, entries in asked.items()}
        alone = float_sam.segment(images[index], **own, multimask_output=multimask_output)
        assert found.masks.shape == (len(alone), *SIZES[index])
        assert np.allclose(found.iou_scores, alone.iou_scores, atol=1e-5)
        differing = found.masks != alone.masks
        assert (np.abs(enlarged(alone, float_sam.model))[differing] < 1e-4).all()
        if batch is None:  # one image at a time on a CPU: nothing is added in another order
            assert torch.equal(found.low_res_logits, alone.low_res_logits)
        if found.prompts.boxes is not None:
            assert torch.equal(found.prompts.boxes, alone.prompts.boxes)


def test_a_quantized_model_answers_as_in_one_call_each(packed_sam: Sam) -> None:
    images, asked = [picture(index) for index in range(5)], ragged()
    many = packed_sam.segment_many(images, **asked)
    for index, found in enumerate(many):
        alone = packed_sam.segment(images[index], **{name: rows[index] for name, rows in asked.items()})
        assert np.array_equal(found.masks, alone.masks)


def test_images_are_encoded_together_once_and_only_where_something_is_asked(nano: SamModel) -> None:
    encoded, sides = [], []
    nano.vision_encoder.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    positions = nano.get_image_wide_positional_embeddings

    def counted() -> torch.Tensor:  # the decoder asks for them when an image's share of its work begins
        sides.append(1)
        return positions()

    nano.get_image_wide_positional_embeddings = counted
    Sam(nano, "nano").segment_many([picture(index) for index in range(5)], **ragged(), batch=3)
    assert encoded == [2, 2], "of three images one is asked nothing, then there are two"
    assert len(sides) == 4


def test_files_and_arrays_may_be_mixed(float_sam: Sam, tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), picture(0)]
    found = float_sam.segment_many(images, points=np.full((3, 1, 2), 40.0))
    assert all(np.array_equal(one.masks, found[0].masks) for one in found)
    assert found[0].masks.any()


def test_nothing_asked_of_any_image_gives_nothing(float_sam: Sam) -> None:
    found = float_sam.segment_many([picture(0), picture(1)], boxes=[None, []])
    assert [one.masks.shape for one in found] == [(0, *SIZES[0]), (0, *SIZES[1])]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"images": []}, "the list of images is empty"),
    ({"images": "dog.jpg"}, "images must be a list of files or arrays, got str; 'segment' takes a single"),
    ({"images": picture(0)}, "images must be a list of files or arrays, got ndarray"),
    ({"boxes": [None]}, "2 images, but boxes has 1 entries; give one for each image, None where"),
    ({"points": [[[1, 2]]] * 3}, "2 images, but points has 3 entries"),
    ({"labels": []}, "2 images, but labels has 0 entries"),
    ({"boxes": "ab"}, "boxes must be a list with one entry for each image, got str"),
    ({"boxes": iter([None, None])}, "boxes must be a list with one entry for each image"),
    ({"batch": 0}, "batch 0: give the images to encode at a time, 1 or more"),
    ({"batch": 1.5}, "batch 1.5: give the images"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_calls_without_a_meaning_are_refused(float_sam: Sam, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        float_sam.segment_many(**{"images": [picture(0), picture(1)], **wrong})
    assert said in str(error.value)


def test_faults_of_one_image_name_it(float_sam: Sam, tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "second.png")
    images = [picture(0), tmp_path / "second.png"]
    with pytest.raises(PromptError, match=r"image 1 \(.*second.png\): .*box 1 .* is inverted"):
        float_sam.segment_many(images, boxes=[None, [[1, 2, 30, 40], [9, 9, 2, 20]]])
    with pytest.raises(PromptError, match=r"image 0: .*2 boxes, 1 points"):
        float_sam.segment_many(images, boxes=[[[1, 2, 30, 40]] * 2, None], points=[[[5, 5]], None])
    with pytest.raises(ImageError, match=r"image 0: expected .* uint8 RGB"):
        float_sam.segment_many([picture(0)[..., :2], images[1]])
    with pytest.raises(ImageError, match=r"missing\.png: there is no such file"):
        float_sam.segment_many([picture(0), tmp_path / "missing.png"])
