"""SAM 2 as a family: the same numbers as transformers' own model, every part accounted for, folds exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.families.sam2_models import SIDE, tiny_config, tiny_sam2
from tests.families.test_shared_decoder import by_prompt, codes_seen, prompts_of
from transformers import Sam2Config, Sam2Model

from saqsam.calibrate.images import CalibrationImage
from saqsam.errors import UsageError
from saqsam.families.framing import preprocess
from saqsam.families.record import EQUALISATION, SIGN_FLIP
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.folds.apply import fold_encoder
from saqsam.folds.exact import check_folds
from saqsam.images.frame import Frame
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, attention_rows, float_parts, quantized_sites
from saqsam.pipeline import quantize_model
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Folds, load_recipe
from saqsam.segment.predictor import decoded, embed, upscale_masks

PUBLISHED = {
    "tiny": (96, (1, 2, 7, 2), (1, 2, 4, 8), 89, 165, 17.5),
    "small": (96, (1, 2, 11, 2), (1, 2, 4, 8), 105, 197, 21.1),
    "base_plus": (112, (2, 3, 16, 3), (2, 4, 8, 16), 137, 261, 38.8),
    "large": (144, (2, 6, 36, 4), (2, 4, 8, 16), 233, 453, 111.6),
}
"""Width, blocks and heads of each stage; weights, activations, and megabytes at four bits."""


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return tiny_sam2()


@pytest.fixture(scope="module")
def attached(model: Sam2Model) -> Sam2Model:
    found = copy.deepcopy(model)
    attach(found, plan_sites(found, load_recipe("rtn-w4a4")))
    return found


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(3))


BOX = torch.tensor([[[10.0, 20, 80, 90], [5, 5, 50, 60]]])
CLICKS = torch.tensor([[[[30.0, 40], [60, 20]], [[90, 90], [0, 0]]]])
KINDS = torch.tensor([[[1, 0], [1, -10]]])
MASK = torch.linspace(-6, 6, (SIDE // 4) ** 2).reshape(1, 1, SIDE // 4, SIDE // 4)
GIVEN: dict[str, dict[str, Any]] = {
    "boxes": {"input_boxes": BOX},
    "clicks": {"input_points": CLICKS, "input_labels": KINDS},
    "box-and-mask": {"input_boxes": BOX[:, :1], "input_masks": MASK},
    "mask": {"input_masks": MASK},
}


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("given", GIVEN)
def test_float_answers_are_those_of_transformers(
    model: Sam2Model, pixels: torch.Tensor, given: str, multimask: bool
) -> None:
    expected = model(pixel_values=pixels, multimask_output=multimask, **GIVEN[given])
    found = decoder_of(model).answer(
        encoder_of(model).encode(pixels), multimask_output=multimask, may_switch=True, **GIVEN[given]
    )
    largest = expected.pred_masks.abs().max()
    assert float((found.masks - expected.pred_masks).abs().max() / largest) < 1e-5
    torch.testing.assert_close(found.scores, expected.iou_scores, rtol=1e-5, atol=1e-6)
    assert found.objects is not None
    torch.testing.assert_close(found.objects, expected.object_score_logits[..., 0], rtol=1e-5, atol=1e-5)


def test_attached_and_observing_changes_nothing(
    model: Sam2Model, attached: Sam2Model, pixels: torch.Tensor
) -> None:
    expected, found = (encoder_of(one).encode(pixels) for one in (model, attached))
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_a_single_mask_is_switched_for_users_only(pixels: torch.Tensor) -> None:
    """The published setting answers with another mask where the first one is not stable."""
    never = tiny_sam2(dynamic_multimask_stability_thresh=1.0, dynamic_multimask_stability_delta=10.0)
    frame = preprocess(never, np.zeros((SIDE, SIDE, 3), np.uint8))[1]
    embedding, prompts = embed(never, pixels), Prompts(boxes=BOX[0])
    first = decoded(never, embedding, prompts, frame)
    users = decoded(never, embedding, prompts, frame, may_switch=True)
    three = decoded(never, embedding, prompts, frame, multimask_output=True)
    best = three.scores.argmax(1)
    assert torch.equal(users.masks[:, 0], three.masks[torch.arange(2), best])
    assert not torch.equal(first.masks, users.masks)


def test_images_are_squashed_and_masks_enlarged_at_once(model: Sam2Model) -> None:
    wide = np.random.default_rng(0).integers(0, 255, (40, 100, 3)).astype(np.uint8)
    values, frame = preprocess(model, wide)
    assert values.shape == (1, 3, SIDE, SIDE)
    assert (frame.resized, frame.scale_points(torch.tensor([100.0, 40.0])).tolist()) == (
        (SIDE, SIDE),
        [128, 128],
    )
    logits = torch.randn((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(logits, (40, 100), mode="bilinear", align_corners=False) > 0
    assert torch.equal(upscale_masks(logits, frame), expected)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sites_of_the_published_sizes_and_bytes_at_four_bits(size: str) -> None:
    width, blocks, heads, weights, activations, megabytes = PUBLISHED[size]
    widths = [width * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "blocks_per_stage": list(blocks),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": list(heads),
    }
    config = Sam2Config(vision_config={"backbone_config": backbone, "backbone_channel_list": widths[::-1]})
    with torch.device("meta"):
        model = Sam2Model(config)
    sites = quantized_sites(model)
    paths = [site.path for site in sites if site.role == WEIGHT]
    assert (len(paths), len(sites) - len(paths)) == (weights, activations)
    quantized = {f"{path}.weight": model.get_parameter(f"{path}.weight") for path in paths}
    rest = sum(x.numel() for name, x in model.named_parameters() if name not in quantized)
    size_bytes = sum(x.numel() / 2 + 4.5 * len(x) for x in quantized.values()) + 2 * rest
    assert size_bytes / 1e6 == pytest.approx(megabytes, rel=0.03)


def test_every_parameter_is_quantized_or_has_a_reason_to_stay_float(model: Sam2Model) -> None:
    owners = [f"{site.path}.weight" for site in quantized_sites(model) if site.role == WEIGHT]
    owners += [part.path for part in float_parts(model)]
    for name, _ in model.named_parameters():
        assert len([one for one in owners if name == one or name.startswith(f"{one}.")]) == 1, name


def test_folds_are_exact_where_the_record_says_so(attached: Sam2Model, pixels: torch.Tensor) -> None:
    """The fold itself compares all tensors of the embedding before and after."""
    model = copy.deepcopy(attached)
    folds = Folds(
        encoder_query_key_rotation=True, value_rotation=True, key_centring=True, value_output_scaling=True
    )
    record = fold_encoder(model, folds, lambda: embed(model, pixels), torch.Generator().manual_seed(1))
    rows = attention_rows(model, "encoder")
    pooled = [row.path for row in rows if SIGN_FLIP not in row.exact]
    assert len(pooled) == 3
    assert all(EQUALISATION in row.exact for row in rows)
    for row in rows:
        assert ("query_key_turned" in record[row.path]) == (row.path not in pooled)
        assert {"value_turned", "mean_removed", "value_factor"} <= set(record[row.path])


def test_a_fold_that_would_change_the_model_is_refused(model: Sam2Model) -> None:
    with pytest.raises(UsageError, match=r"folds\.residual_rotation: the encoder of SAM 2 .* set folds\."):
        check_folds(model, Folds(residual_rotation=True))


def test_the_config_of_the_tests_is_one_that_can_be_loaded() -> None:
    from saqsam.checkpoints.config import checked_config

    given = tiny_config().to_dict()
    again: Any = checked_config("config.json", given)
    assert again.vision_config.to_dict() == tiny_config().vision_config.to_dict()


@pytest.mark.parametrize("may_switch", [False, True])
@pytest.mark.parametrize("kinds", [("boxes",), ("points",), ("boxes", "points", "masks"), ("masks",)])
def test_sharing_the_images_work_changes_no_answer(
    model: Sam2Model, pixels: torch.Tensor, kinds: tuple[str, ...], may_switch: bool
) -> None:
    """A hook asks for the plain way. In float64, so that the order of sums, which differs, hides nothing."""
    prompts, frame = prompts_of(kinds, 5, SIDE // 4), Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)
    model = copy.deepcopy(model).double()
    embedding = embed(model, pixels)
    assert decoder_of(model).prepared(embedding) is not None
    for multimask in (False, True):
        options: dict[str, Any] = {"may_switch": may_switch, "multimask_output": multimask}
        shared = decoded(model, embedding, prompts, frame, **options)
        handle = model.mask_decoder.register_forward_hook(lambda *_: None)
        plain = decoded(model, embedding, prompts, frame, **options)
        handle.remove()
        for found, expected in zip(shared.tensors, plain.tensors, strict=True):
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_sharing_and_leaving_out_padding_make_the_same_codes(
    monkeypatch: pytest.MonkeyPatch, scenes: tuple[CalibrationImage, ...], pixels: torch.Tensor
) -> None:
    """Windows of 6 on a grid of 8 are padded; the plain way, which a hook asks for, projects the padding."""
    model: Any = tiny_sam2()
    quantize_model(model, load_recipe("rtn-w4a4"), scenes[:1])
    prompts, frame = prompts_of(("boxes",), 4, 0), Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)
    found = embed(model, pixels)
    shared = codes_seen(monkeypatch, model, lambda: decoded(model, found, prompts, frame))
    for module in (model.vision_encoder, model.mask_decoder):
        module.register_forward_hook(lambda *_: None)
    expected = embed(model, pixels)
    plain = codes_seen(monkeypatch, model, lambda: decoded(model, found, prompts, frame))
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        assert torch.equal(one, other)
    assert set(shared) == set(plain)
    for site, codes in plain.items():
        wanted = by_prompt(codes, 4)
        assert torch.equal(by_prompt(shared[site], 4).expand_as(wanted), wanted), site
