"""SAM's protocol, against the processors of transformers: the same input, the same masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.sam.processing_sam import SamProcessor

from saqsam.errors import ImageError
from saqsam.families.framing import preprocess
from saqsam.prompts.prompts import Prompts
from saqsam.scenes import make_scene
from saqsam.segment.predictor import best_masks, decode, embed, predict
from saqsam.segment.result import Segmentation
from saqsam.shipped.embedded import embedded_sam

if TYPE_CHECKING:
    from tests.conftest import Coco50

SIZES = [(64, 64), (30, 97), (97, 30), (200, 333), (1, 1), (3, 300), (300, 3), (63, 65), (64, 128)]


def processor(side: int) -> SamProcessor:
    """The processor that transformers would save beside a model whose input has this side."""
    return SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": side},
            pad_size={"height": side, "width": side},
            mask_size={"longest_edge": side // 4},
            mask_pad_size={"height": side // 4, "width": side // 4},
        )
    )


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def theirs(model: SamModel, pixels: np.ndarray, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (P, M, H, W) and predicted IoU (P, M) by transformers alone."""
    pipeline = processor(model.config.vision_config.image_size)
    inputs = pipeline(Image.fromarray(pixels), return_tensors="pt", **prompts)
    multimask = prompts.pop("multimask_output", False)
    masks_in = inputs.pop("input_masks", None)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    floats = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        output = model(**floats, input_masks=masks_in, multimask_output=multimask)
    masks = pipeline.image_processor.post_process_masks(output.pred_masks, *sizes)
    return masks[0], output.iou_scores[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [64, 1024])
def test_preprocessing_is_that_of_the_processor(size: tuple[int, int], side: int) -> None:
    config = SamConfig()
    config.vision_config.image_size = side
    model = SamModel.__new__(SamModel)
    torch.nn.Module.__init__(model)
    model.config = config
    pixels = noise(*size)
    expected = processor(side).image_processor(Image.fromarray(pixels), return_tensors="pt")
    found, frame = preprocess(model, pixels)
    assert found.shape == (1, 3, side, side)
    assert torch.allclose(found, expected["pixel_values"], atol=1e-6, rtol=0)
    assert frame.original == size == tuple(expected["original_sizes"][0].tolist())
    assert frame.resized == tuple(expected["reshaped_input_sizes"][0].tolist())


def test_preprocessing_of_real_photographs(coco50: Coco50, nano: SamModel) -> None:
    side = nano.config.vision_config.image_size
    for path in sorted(coco50.images.iterdir())[:12]:
        pixels = np.array(Image.open(path).convert("RGB"))
        expected = processor(side).image_processor(Image.fromarray(pixels), return_tensors="pt")
        assert torch.allclose(preprocess(nano, pixels)[0], expected["pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(48, 64), (90, 41), (64, 64), (150, 200)])
def test_masks_of_boxes_are_those_of_transformers(tiny_sam: SamModel, size: tuple[int, int]) -> None:
    pixels = noise(*size)
    boxes = [[2.0, 3.0, 30.0, 40.0], [10.5, 1.0, 40.0, 33.25]]
    masks, scores = theirs(tiny_sam, pixels, input_boxes=[boxes])
    found = predict(tiny_sam, pixels, Prompts(boxes=torch.tensor(boxes)))
    assert np.allclose(found.iou_scores, scores[:, 0], atol=1e-5)
    assert (found.masks != masks[:, 0].numpy()).mean() < 1e-4
    assert 0.01 < found.masks.mean() < 0.99, "masks that are all alike prove nothing"


def test_masks_of_clicks_are_those_of_transformers(tiny_sam: SamModel) -> None:
    pixels = noise(48, 64)
    points = [[[5.0, 6.0], [30.0, 20.0]], [[60.0, 40.0], [1.0, 1.0]]]
    labels = [[1, 0], [1, 1]]
    masks, scores = theirs(tiny_sam, pixels, input_points=[points], input_labels=[labels])
    found = predict(tiny_sam, pixels, Prompts(points=torch.tensor(points), labels=torch.tensor(labels)))
    assert np.allclose(found.iou_scores, scores[:, 0], atol=1e-5)
    assert (found.masks != masks[:, 0].numpy()).mean() < 1e-4


def test_a_mask_prompt_of_each_box_is_that_of_transformers_asked_one_by_one(tiny_sam: SamModel) -> None:
    pixels = noise(48, 64)
    boxes = torch.tensor([[2.0, 3.0, 30.0, 40.0], [10.0, 1.0, 40.0, 33.0], [0.0, 0.0, 64.0, 48.0]])
    first = predict(tiny_sam, pixels, Prompts(boxes=boxes))
    found = predict(tiny_sam, pixels, Prompts(boxes=boxes, masks=first.low_res_logits))
    pixel_values, frame = preprocess(tiny_sam, pixels)
    for index in range(3):
        with torch.no_grad():
            alone = tiny_sam(
                pixel_values=pixel_values,
                input_boxes=frame.scale_boxes(boxes[index])[None, None],
                input_masks=first.low_res_logits[index][None],
                multimask_output=False,
            )
        logits = alone.pred_masks[0, 0]
        assert torch.allclose(found.low_res_logits[index], logits, atol=1e-5 * float(logits.abs().max()))
    assert not np.array_equal(found.masks, first.masks)


def test_of_three_masks_the_one_with_the_highest_predicted_iou(tiny_sam: SamModel) -> None:
    pixels = noise(48, 64)
    boxes = torch.tensor([[2.0, 3.0, 30.0, 40.0], [10.0, 1.0, 40.0, 33.0], [3.0, 20.0, 60.0, 47.0]])
    pixel_values, frame = preprocess(tiny_sam, pixels)
    logits, scores = decode(
        tiny_sam, embed(tiny_sam, pixel_values), Prompts(boxes=boxes), frame, multimask_output=True
    )
    assert logits.shape[:2] == scores.shape == (3, 3)
    found = predict(tiny_sam, pixels, Prompts(boxes=boxes), multimask_output=True)
    for index in range(3):
        best = int(np.argmax(scores[index].numpy()))
        assert found.iou_scores[index] == float(scores[index, best]) == float(scores[index].max())
        assert torch.equal(found.low_res_logits[index, 0], logits[index, best])


def test_a_score_that_is_nan_is_never_passed_over() -> None:
    """argmax takes NaN for the highest: a broken answer is counted, not hidden behind a sound one."""
    logits, scores = torch.zeros(1, 3, 2, 2), torch.tensor([[0.5, float("nan"), 0.9]])
    assert best_masks(logits, scores)[1].isnan().all()


def test_nan_logits_are_counted_and_give_no_mask(tiny_sam: SamModel) -> None:
    with torch.no_grad():
        tiny_sam.vision_encoder.neck.layer_norm2.bias[0] = float("nan")
    found = predict(tiny_sam, noise(48, 64), Prompts(boxes=torch.tensor([[2.0, 3.0, 30.0, 40.0]] * 2)))
    assert found.nan_count == 2
    assert not found.masks.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_extreme_shapes_are_segmented(tiny_sam: SamModel, size: tuple[int, int]) -> None:
    height, width = size
    found = predict(tiny_sam, noise(*size), Prompts(boxes=torch.tensor([[0.0, 0.0, width, height]])))
    assert found.masks.shape == (1, *size)
    assert found.nan_count == 0


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        [[1, 2]],
    ],
)
def test_pixels_of_another_kind_are_refused(tiny_sam: SamModel, pixels: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        predict(tiny_sam, pixels, Prompts())


# pycocotools was compiled before numpy 2 asked for this.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_results_in_coco_form_hold_the_masks(nano: SamModel) -> None:
    from pycocotools import mask as rle

    scene = make_scene(np.random.default_rng(12), (96, 128))
    found = predict(nano, scene.image, Prompts(boxes=torch.from_numpy(scene.boxes)))
    rows = found.to_coco(7, scene.category_ids, [0.5] * len(scene))
    assert json.loads(json.dumps(rows)) == rows
    for index, row in enumerate(rows):
        assert np.array_equal(rle.decode(row["segmentation"]).astype(bool), found.masks[index])
        assert row["score"] == pytest.approx(0.5 * float(found.iou_scores[index]))
        assert (row["image_id"], row["category_id"]) == (7, scene.category_ids[index])
        assert "bbox" not in row
    assert found.to_coco(7, scene.category_ids, keep=np.zeros(len(scene), bool)) == []


def test_objects_of_a_scene_are_found_by_the_shipped_model(nano: SamModel, tmp_path: Path) -> None:
    """Boxes would miss by far if the frame, the padding or the order of x and y were wrong."""
    for size in ((96, 128), (128, 96), (300, 200)):
        scene = make_scene(np.random.default_rng(5), size)
        found: Segmentation = predict(nano, scene.image, Prompts(boxes=torch.from_numpy(scene.boxes)))
        overlaps = [
            (mask & scene.mask(i)).sum() / (mask | scene.mask(i)).sum() for i, mask in enumerate(found.masks)
        ]
        assert np.mean(overlaps) > 0.6


def test_the_outlier_variant_is_the_same_function(nano: SamModel) -> None:
    scene = make_scene(np.random.default_rng(5), (96, 128))
    prompts = Prompts(boxes=torch.from_numpy(scene.boxes))
    one, two = (predict(model, scene.image, prompts) for model in (nano, embedded_sam("nano-outliers")))
    assert (one.masks != two.masks).mean() < 1e-3
