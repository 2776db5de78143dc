"""SAM-HQ from file to masks: decoded as published, quantized, packed, exported, run by other engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints.published import SIDE, Official, image_encoder, some_prompts
from tests.families.published_sam_hq import mask_decoder
from tests.families.tiny_sam_hq import plain_sam_hq

from saqsam import api
from saqsam.checkpoints.official import split_rows, write_official
from saqsam.errors import UsageError
from saqsam.families.sam_hq import SAM_HQ
from saqsam.images.frame import Frame
from saqsam.models.sites import WEIGHT, float_parts, quantized_sites
from saqsam.recipe import Recipe, load_recipe
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.predictor import decode, embed

FRAME = Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
BOXES = [[10, 10, 60, 60], [30, 20, 90, 80]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hq") / "tiny.pth"
    write_official(plain_sam_hq(), path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 2, 12)


def quantized(sam: Sam, scenes: Path, recipe: Recipe | str = "rtn-w8a8") -> Sam:
    return api.quantize(sam, recipe, scenes.parent / "images", scenes)


def picture(seed: int = 5) -> Any:
    return make_scene(np.random.default_rng(seed), (96, 128)).image


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("kind", ["boxes", "points", "boxes and masks"])
def test_masks_are_those_of_the_published_decoder(file: Path, kind: str, watched: bool) -> None:
    """Through what all prompts share, and by the model's own forward, which a hook asks for."""
    model: Any = api.load(file).model
    state = Official(SAM_HQ.layout.to_official(model.state_dict(), split_rows))
    pixels = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    embedding, (early, _) = image_encoder(state, pixels)
    found, prompts = embed(model, pixels), some_prompts(kind)
    torch.testing.assert_close(found.main, embedding, **CLOSE)
    if watched:
        model.mask_decoder.register_forward_hook(lambda *_: None)
    for alone in (False, True):
        model.config.mask_decoder_config.hq_token_only = alone
        for multimask, chosen in ((False, slice(0, 1)), (True, slice(1, 4))):
            logits, scores = decode(model, found, prompts, FRAME, multimask_output=multimask)
            for row in range(len(prompts)):
                masks, fine, expected = mask_decoder(state, embedding, early, prompts, row)
                own = torch.zeros_like(masks) if alone else masks
                torch.testing.assert_close(logits[row], own[chosen] + fine, **CLOSE)
                torch.testing.assert_close(scores[row], expected[chosen], **CLOSE)


def test_every_parameter_is_quantized_or_float_for_a_reason(file: Path) -> None:
    model = api.load(file).model
    owners = [f"{site.path}.weight" for site in quantized_sites(model) if site.role == WEIGHT]
    owners += [part.path for part in float_parts(model)]
    for name, _ in model.named_parameters():
        assert sum(name == owner or name.startswith(f"{owner}.") for owner in owners) == 1, name


def test_every_step_of_learning_works(file: Path, scenes: Path) -> None:
    recipe = load_recipe("saq-sam-w4a4")
    short = replace(recipe.reconstruct, iterations=1, batch=1, whole_iterations=1)
    recipe = replace(recipe, reconstruct=short, calibration=replace(recipe.calibration, images=1))
    assert quantized(api.load(file), scenes, recipe).bits == "w4a4"


def test_a_fold_that_would_change_it_is_refused(file: Path, scenes: Path) -> None:
    recipe = load_recipe("rtn-w8a8")
    recipe = replace(recipe, folds=replace(recipe.folds, residual_rotation=True))
    with pytest.raises(UsageError, match=r"encoder of SAM-HQ .* set folds\.residual_rotation=false"):
        quantized(api.load(file), scenes, recipe)


@pytest.fixture(scope="module")
def packed(file: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "hq.safetensors"
    quantized(api.load(file), scenes).save(path)
    return path


def test_the_engine_agrees_with_the_packed_file(packed: Path) -> None:
    sam, other = api.load(packed), api.load(packed, engine="onnxruntime")
    image = picture(7)  # of five pictures one has a value between two codes, which rounding errors decide
    first = sam.segment(image, boxes=BOXES)
    for given in ({"boxes": BOXES}, {"points": [[20, 20]]}, {"boxes": BOXES, "masks": first.low_res_logits}):
        for multimask in (False, True):
            one, two = (x.segment(image, **given, multimask_output=multimask) for x in (sam, other))  # type: ignore[arg-type]
            torch.testing.assert_close(one.low_res_logits, two.low_res_logits, atol=1e-4, rtol=0)


def test_exported_graphs_are_the_model_and_have_the_names_of_sam_hqs_own(
    file: Path, scenes: Path, tmp_path: Path
) -> None:
    import onnx

    from saqsam.export.api import export_file

    sam = api.load(file)
    sam.model.config.mask_decoder_config.hq_token_only = True
    quantized(sam, scenes).save(tmp_path / "hq.safetensors")
    done = export_file(tmp_path / "hq.safetensors", tmp_path / "onnx", limit=1)
    assert done.parity is not None
    assert done.parity.decoder_mask_iou > 0.999
    encoder = onnx.load(tmp_path / "onnx" / "encoder.onnx").graph
    decoder = onnx.load(tmp_path / "onnx" / "decoder.onnx").graph
    assert [one.name for one in encoder.output] == ["image_embeddings", "interm_embeddings"]
    assert {"image_embeddings", "interm_embeddings", "mask_input"} <= {one.name for one in decoder.input}


def test_a_saved_directory_has_the_right_decoder_in_transformers(packed: Path, tmp_path: Path) -> None:
    from transformers import SamHQModel

    sam = api.load(packed)
    sam.save_pretrained(tmp_path)
    opened = SamHQModel.from_pretrained(tmp_path)
    pixels = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    boxes = some_prompts("boxes").boxes
    assert boxes is not None
    found = opened(pixels, input_boxes=boxes[None], multimask_output=False).pred_masks[0]
    expected, _ = decode(sam.model, embed(sam.model, pixels), some_prompts("boxes"), FRAME)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert api.load(tmp_path).bits == "w8a8"
