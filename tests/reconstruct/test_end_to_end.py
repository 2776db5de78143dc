"""The last unit: all scales and biases learned together, by the masks and scores of the float model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import RecipeError
from saqsam.families.embedding import Embedding
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pipeline import Report
from saqsam.recipe import Recipe, Reconstruct, load_recipe
from saqsam.reconstruct.end_to_end import masks_and_scores
from saqsam.reconstruct.prompting import Prompting

Quantized = Callable[..., tuple[SamModel, Report]]
ImagesFor = Callable[[Recipe], Sequence[CalibrationImage]]
TWO = ("calibration.images=2", "calibration.prompts=3")


def test_what_is_compared_is_what_the_model_answers(tiny_sam: SamModel, images_for: ImagesFor) -> None:
    """Two images with different numbers of prompts, against one call of ``transformers`` for each."""
    images = images_for(load_recipe("mse", settings=TWO))
    opened = [pixels_of(tiny_sam, image) for image in images]
    asked = [(image.prompts, frame) for image, (_, frame) in zip(images, opened, strict=True)]
    prompting = Prompting.of(tiny_sam, asked, 16, torch.Generator().manual_seed(0))
    embedding = torch.cat([tiny_sam.vision_encoder(pixels).last_hidden_state for pixels, _ in opened])
    found = masks_and_scores(tiny_sam, prompting, Embedding(embedding), [0, 1])
    drawn, expected = torch.Generator().manual_seed(0), []
    for (prompts, frame), (pixels, _) in zip(asked, opened, strict=True):
        order = torch.randperm(len(prompts), generator=drawn)[:16].sort().values
        boxes = frame.scale_boxes(prompts.boxes[order])[None]
        several, single = (
            tiny_sam(pixel_values=pixels, input_boxes=boxes, multimask_output=multimask)
            for multimask in (True, False)
        )
        logits = torch.cat([single.pred_masks, several.pred_masks], dim=2)[0].flatten(2)
        scores = torch.cat([single.iou_scores, several.iou_scores], dim=2)[0]
        rows = torch.cat([logits.sigmoid(), scores[..., None] * logits.shape[-1] ** 0.5], -1)
        expected.append(rows.transpose(1, 2))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_it_lowers_the_error_of_the_masks_and_leaves_the_weights(
    quantized: Quantized, tiny_sam: SamModel, images_for: ImagesFor
) -> None:
    before, _ = quantized("saq-sam-star-w4a4")
    whole = ("reconstruct.whole_iterations=30", "reconstruct.whole_rate=0.005", "reconstruct.bias_rate=0.003")
    after, report = quantized("saq-sam-star-w4a4", *whole)
    (record,) = report.units  # it alone is a recipe too
    assert (record["unit"], record["steps"], record["kept"]) == ("whole-model", 30, "learned")
    assert record["after"] < 0.9 * record["before"]
    moved = {WEIGHT: 0, "other": 0}
    for site, quantizer in all_quantizers(after).items():
        if site.role == WEIGHT:
            weights = (model.get_submodule(site.path).weight for model in (before, after))
            assert torch.equal(*weights), site.name
        else:
            moved["other"] += not torch.equal(
                quantizer.grid.numbers(), all_quantizers(before)[site].grid.numbers()
            )
    assert moved["other"] > 40

    recipe = load_recipe("mse", settings=("calibration.images=4", "calibration.prompts=3"))
    errors = []
    for model in (before, after):
        total = 0.0
        for image in images_for(recipe):
            pixels, frame = pixels_of(model, image)
            boxes = frame.scale_boxes(image.prompts.boxes)[None]
            with torch.no_grad():
                masks, wanted = (
                    m(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks.sigmoid()
                    for m in (model, copy.deepcopy(tiny_sam))
                )
            total += float((masks - wanted).square().mean())
        errors.append(total)
    assert errors[1] < errors[0]


def test_it_needs_the_float_models_own_outputs() -> None:
    for key, value in (("targets", "quantized-input"), ("activations", "float")):
        with pytest.raises(RecipeError, match="whole_iterations compares with the float model"):
            Reconstruct(whole_iterations=5, **{key: value})  # type: ignore[arg-type]
