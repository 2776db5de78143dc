"""Many prompts: worked through a few at a time, with the same answers."""

from __future__ import annotations

import numpy as np
import torch
from transformers import SamModel

from saqsam.families.framing import preprocess
from saqsam.prompts.prompts import Prompts
from saqsam.scenes import make_scene
from saqsam.segment.predictor import decode, embed, predict, predict_parts


def picture() -> np.ndarray:
    return make_scene(np.random.default_rng(4), (96, 128)).image


def random_boxes(count: int) -> torch.Tensor:
    rng = np.random.default_rng(8)
    corner, side = rng.uniform(0, (90, 70), (count, 2)), rng.uniform(4, 26, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + side], axis=1).astype(np.float32))


def test_the_length_of_a_chunk_changes_nothing(nano: SamModel) -> None:
    pixel_values, frame = preprocess(nano, picture())
    embeddings = embed(nano, pixel_values)
    prompts = Prompts(boxes=random_boxes(33))
    for multimask in (False, True):
        logits, scores = decode(nano, embeddings, prompts, frame, multimask_output=multimask)
        for chunk in (1, 7, 100):
            others = decode(nano, embeddings, prompts, frame, multimask_output=multimask, chunk=chunk)
            assert torch.allclose(others[0], logits, atol=1e-5 * float(logits.abs().max()), rtol=0)
            assert torch.allclose(others[1], scores, atol=1e-5, rtol=0)


def test_chunks_of_mask_prompts_and_clicks(nano: SamModel) -> None:
    pixels, prompts = picture(), Prompts(boxes=random_boxes(5))
    first = predict(nano, pixels, prompts)
    points = (prompts.boxes[:, None, :2] + prompts.boxes[:, None, 2:]) / 2
    labels = torch.ones(points.shape[:2], dtype=torch.int64)
    again = Prompts(prompts.boxes, points, labels, first.low_res_logits)
    whole, single = predict(nano, pixels, again), predict(nano, pixels, again, chunk=1)
    scale = float(whole.low_res_logits.abs().max())
    assert torch.allclose(whole.low_res_logits, single.low_res_logits, atol=1e-5 * scale, rtol=0)


def test_parts_are_the_whole_and_the_image_is_encoded_once(nano: SamModel) -> None:
    boxes = random_boxes(11)
    boxes[0, 0] = -4.0
    prompts, pixels = Prompts(boxes=boxes), picture()
    whole = predict(nano, pixels, prompts)
    encoded = []
    nano.vision_encoder.register_forward_hook(lambda *_: encoded.append(1))
    parts = list(predict_parts(nano, pixels, prompts, chunk=4))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert len(encoded) == 1
    assert np.array_equal(np.concatenate([part.masks for part in parts]), whole.masks)
    assert np.allclose(np.concatenate([part.iou_scores for part in parts]), whole.iou_scores, atol=1e-5)
    assert torch.equal(torch.cat([part.prompts.boxes for part in parts]), whole.prompts.boxes)
    assert [part.clipped_boxes for part in parts] == [whole.clipped_boxes, 0, 0] == [1, 0, 0]


def test_no_prompts_are_no_parts(nano: SamModel) -> None:
    assert list(predict_parts(nano, picture(), Prompts())) == []


def test_parts_of_a_large_image_stay_below_a_third_of_a_gigabyte(tiny_sam: SamModel) -> None:
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    parts = predict_parts(tiny_sam, pixels, Prompts(boxes=random_boxes(25)))
    sizes = [part.masks.nbytes for part in parts]
    assert sum(sizes) == 25 * 3000 * 4000
    assert max(sizes) < 300e6
    assert len(sizes) == 2


def test_ten_thousand_boxes(tiny_sam: SamModel) -> None:
    """Each is answered as if it had been alone."""
    boxes = random_boxes(10_000)
    boxes[9_999] = boxes[3]
    pixels = picture()
    found = predict(tiny_sam, pixels, Prompts(boxes=boxes), chunk=256)
    assert found.masks.shape == (10_000, 96, 128)
    for index in (0, 3, 5_000, 9_999):
        alone = predict(tiny_sam, pixels, Prompts(boxes=boxes[index : index + 1]))
        assert np.allclose(found.iou_scores[index], alone.iou_scores[0], atol=1e-5)
        assert (found.masks[index] != alone.masks[0]).mean() < 1e-3
    assert np.array_equal(found.masks[9_999], found.masks[3])
