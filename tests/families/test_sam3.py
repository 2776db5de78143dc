"""SAM 3's tracker as a family: transformers' numbers, every part accounted for, folds exact or refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.families.sam3_models import SIDE, tiny_sam3
from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel
from transformers.models.sam3.modeling_sam3 import apply_rotary_pos_emb_2d

from saqsam.checkpoints.plain import as_loaded
from saqsam.errors import UsageError
from saqsam.families.framing import preprocess
from saqsam.families.record import VALUE_FOLDS
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.folds.apply import fold_encoder
from saqsam.folds.exact import check_folds
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, attention_rows, float_parts, quantized_sites
from saqsam.recipe import Folds, load_recipe
from saqsam.segment.predictor import embed


@pytest.fixture(scope="module")
def model() -> Sam3TrackerModel:
    return tiny_sam3()


@pytest.fixture(scope="module")
def attached(model: Sam3TrackerModel) -> Sam3TrackerModel:
    found = copy.deepcopy(model)
    attach(found, plan_sites(found, load_recipe("rtn-w4a4")))
    return found


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(3))


BOX = torch.tensor([[[10.0, 20, 80, 90], [5, 5, 50, 60]]])
GIVEN: dict[str, dict[str, Any]] = {
    "boxes": {"input_boxes": BOX},
    "clicks": {
        "input_points": torch.tensor([[[[30.0, 40], [60, 20]], [[90, 90], [0, 0]]]]),
        "input_labels": torch.tensor([[[1, 0], [1, -10]]]),
    },
    "mask": {"input_masks": torch.linspace(-6, 6, 32 * 32).reshape(1, 1, 32, 32)},
}


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("given", GIVEN)
def test_float_answers_are_those_of_transformers(
    model: Sam3TrackerModel, pixels: torch.Tensor, given: str, multimask: bool
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


def test_what_stands_for_earlier_frames_is_added_to_the_embedding(pixels: torch.Tensor) -> None:
    """Of four levels the coarsest is dropped first, as in the published code and in the model for video."""
    four = tiny_sam3(levels=4)
    parts = four.config.to_dict()
    config = Sam3TrackerVideoConfig(
        **{name: parts[name] for name in ("vision_config", "mask_decoder_config", "prompt_encoder_config")},
        image_size=SIDE,
        memory_attention_hidden_size=32,
        memory_encoder_hidden_size=32,
        memory_attention_num_layers=1,
    )
    config._attn_implementation = "sdpa"
    video = Sam3TrackerVideoModel(config).eval()
    assert video.load_state_dict(four.state_dict(), strict=False).unexpected_keys == []
    fine, middle, main = video.get_image_embeddings(pixels)
    found = encoder_of(as_loaded(four)).encode(pixels)
    for one, other in zip(found.tensors, (main, fine, middle), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_attached_and_observing_changes_nothing(
    model: Sam3TrackerModel, attached: Sam3TrackerModel, pixels: torch.Tensor
) -> None:
    expected, found = (encoder_of(one).encode(pixels) for one in (model, attached))
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_queries_and_keys_are_quantized_as_they_are_multiplied(
    attached: Sam3TrackerModel, pixels: torch.Tensor
) -> None:
    """After they were turned by their positions."""
    block = attached.vision_encoder.backbone.layers[1]
    attention, seen = block.attention, {}
    layers = {"q": attention.q_proj, "k": attention.k_proj}
    layers |= {"query": attention.quantizers.query, "key": attention.quantizers.key}
    handles = [
        layer.register_forward_hook(
            lambda _, given, output, name=name: seen.update({name: (given[0], output)})
        )
        for name, layer in layers.items()
    ]
    encoder_of(attached).encode(pixels)
    for handle in handles:
        handle.remove()
    heads = (x[1].flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for x in (seen["q"], seen["k"]))
    turned = apply_rotary_pos_emb_2d(*heads, *block.rotary_emb(pixels, block.position_ids))
    torch.testing.assert_close(seen["query"][0], turned[0][0])
    torch.testing.assert_close(seen["key"][0], turned[1][0])


def test_rows_of_a_block_can_be_computed_apart(attached: Sam3TrackerModel, pixels: torch.Tensor) -> None:
    encoder = encoder_of(attached)
    x = encoder.start(pixels)
    for block in encoder.blocks:
        rows = encoder.rows_of(block)
        assert rows is not None
        parts = rows.split(8, 0.4)
        assert len(parts) > 1
        found = torch.cat([rows.run(x, part) for part in parts], dim=1)
        torch.testing.assert_close(found, block(x), rtol=1e-4, atol=1e-5)


def test_images_are_squashed_and_their_values_are_brought_around_zero(model: Sam3TrackerModel) -> None:
    values, frame = preprocess(model, np.full((40, 100, 3), 255, np.uint8))
    assert values.shape == (1, 3, SIDE, SIDE)
    assert frame.resized == (SIDE, SIDE)
    torch.testing.assert_close(values, torch.ones_like(values))


def test_sites_of_the_published_size_and_bytes_at_four_bits() -> None:
    with torch.device("meta"):
        model = Sam3TrackerModel(Sam3TrackerConfig(vision_config={"scale_factors": [4.0, 2.0, 1.0]}))
    sites = quantized_sites(model)
    paths = [site.path for site in sites if site.role == WEIGHT]
    assert (len(paths), len(sites) - len(paths)) == (232, 388)
    quantized = {f"{path}.weight": model.get_parameter(f"{path}.weight") for path in paths}
    rest = sum(x.numel() for name, x in model.named_parameters() if name not in quantized)
    size_bytes = sum(x.numel() / 2 + 4.5 * len(x) for x in quantized.values()) + 2 * rest
    assert size_bytes / 1e6 == pytest.approx(241.5, rel=0.03)


def test_every_parameter_is_quantized_or_has_a_reason_to_stay_float(model: Sam3TrackerModel) -> None:
    owners = [f"{site.path}.weight" for site in quantized_sites(model) if site.role == WEIGHT]
    owners += [part.path for part in float_parts(model)]
    for name, _ in model.named_parameters():
        assert len([one for one in owners if name == one or name.startswith(f"{one}.")]) == 1, name


def test_folds_of_values_are_exact_and_alone_in_the_encoder(
    attached: Sam3TrackerModel, pixels: torch.Tensor
) -> None:
    """The fold itself compares all tensors of the embedding before and after."""
    model = copy.deepcopy(attached)
    folds = Folds(value_rotation=True, key_centring=True, value_output_scaling=True)
    check_folds(model, folds)  # key centring is exact in the decoder
    record = fold_encoder(model, folds, lambda: embed(model, pixels), torch.Generator().manual_seed(1))
    rows = attention_rows(model, "encoder")
    assert {row.exact for row in rows} == {frozenset((VALUE_FOLDS,))}
    assert [set(record[row.path]) for row in rows] == [{"value_turned", "value_factor"}] * len(rows)


@pytest.mark.parametrize("switch", ["encoder_query_key_rotation", "residual_rotation"])
def test_a_fold_that_would_change_the_model_is_refused(model: Sam3TrackerModel, switch: str) -> None:
    with pytest.raises(UsageError, match=rf"folds\.{switch}: .*SAM 3 .*set folds\.{switch}=false"):
        check_folds(model, Folds(**{switch: True}))
