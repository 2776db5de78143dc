"""Rotations: orthogonal, exact to float32, and doing what they are for."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import UsageError
from saqsam.folds.apply import fold_decoder, fold_encoder
from saqsam.folds.orthogonal import keeping_the_mean, spreading
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.recipe import Folds, load_recipe
from saqsam.segment.predictor import embed

EXACT = 1e-4
"""Largest change of the logits, in units of the largest."""
ROTATIONS = ("value_rotation", "query_key_rotation", "encoder_query_key_rotation", "residual_rotation")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(width=st.integers(1, 96), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_matrices_are_orthogonal(width: int, seed: int) -> None:
    identity, ones = torch.eye(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
    matrix, keeping = spreading(width, draw(seed)), keeping_the_mean(width, draw(seed))
    torch.testing.assert_close(matrix @ matrix.T, identity)
    torch.testing.assert_close(keeping @ keeping.T, identity)
    torch.testing.assert_close(keeping @ ones, ones)


@pytest.mark.parametrize("width", [16, 64, 80, 128])
def test_one_channel_is_spread_over_all(width: int) -> None:
    """The odd factor of 80 is 5, whose drawn rotation is not as even as a Hadamard matrix."""
    odd = 5 if width == 80 else 1
    for matrix in (spreading(width, draw()), keeping_the_mean(width, draw())):
        # The reflection in the second kind adds at most two more such entries.
        assert float(matrix.abs().max()) * width**0.5 < 3.1 * odd**0.5
    exact = float(spreading(width, draw()).abs().max()) * width**0.5
    assert exact == pytest.approx(1.0) if odd == 1 else exact < odd**0.5


def logits(model: SamModel, pixels: Tensor) -> list[Tensor]:
    """Three masks and their predicted IoU for two boxes and for a click, from the pixels on."""
    side = float(model.config.vision_config.image_size)
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.7], [0.3, 0.3, 0.9, 0.8]]]) * side
    clicks = {"input_points": torch.tensor([[[[0.4, 0.5]]]]) * side, "input_labels": torch.ones(1, 1, 1)}
    found = []
    for prompts in ({"input_boxes": boxes}, clicks):
        with torch.no_grad():
            out = model(pixel_values=pixels, multimask_output=True, **prompts)
        found += [out.pred_masks, out.iou_scores]
    return found


@pytest.mark.parametrize("switches", [*([name] for name in ROTATIONS), list(ROTATIONS)], ids="+".join)
@pytest.mark.parametrize("name", ["tiny_sam", "nano"])
def test_float_outputs_stay(
    name: str, switches: list[str], request: pytest.FixtureRequest, scenes: tuple[CalibrationImage, ...]
) -> None:
    original: SamModel = request.getfixturevalue(name)
    model = copy.deepcopy(original)
    attach(model, plan_sites(model, load_recipe("rtn-w4a4")))
    pixels, _ = pixels_of(model, scenes[0])
    folds = Folds(**dict.fromkeys(switches, True))

    def run() -> Tensor:
        return embed(model, pixels)

    before = {parameter: value.clone() for parameter, value in model.named_parameters()}
    fold_encoder(model, folds, run, draw())
    fold_decoder(model, folds, lambda: logits(model, pixels)[0], draw())
    assert any(not torch.equal(value, before[each]) for each, value in model.named_parameters())
    for after, wanted in zip(logits(model, pixels), logits(original, pixels), strict=True):
        assert float((after - wanted).abs().max()) < EXACT * float(wanted.abs().max())


def test_an_outlier_channel_of_the_stream_is_spread(
    nano: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    """Channel 5 gets a large constant from the positions; each norm would pass most of it on."""
    nano.vision_encoder.pos_embed.data[..., 5] += 150.0
    attach(nano, plan_sites(nano, load_recipe("rtn-w4a4")))
    pixels, _ = pixels_of(nano, scenes[0])
    seen: list[Tensor] = []
    handle = nano.vision_encoder.neck.conv1.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    fold_encoder(nano, Folds(residual_rotation=True), lambda: embed(nano, pixels), draw())
    handle.remove()
    before, after = (float(x.abs().amax() / x.square().mean().sqrt()) for x in (seen[0], seen[-1]))
    assert before > 6
    assert after < 0.7 * before


def test_a_norm_that_erases_a_channel_cannot_be_moved(
    nano: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    nano.vision_encoder.layers[2].layer_norm2.weight.data[3] = 0.0
    attach(nano, plan_sites(nano, load_recipe("rtn-w4a4")))
    pixels, _ = pixels_of(nano, scenes[0])
    with pytest.raises(UsageError, match=r"layers\.2\.layer_norm2 has a weight close to zero"):
        fold_encoder(nano, Folds(residual_rotation=True), lambda: embed(nano, pixels), draw())


def test_the_same_seed_turns_alike(nano: SamModel, scenes: tuple[CalibrationImage, ...]) -> None:
    weights = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(nano)
        attach(model, plan_sites(model, load_recipe("rtn-w4a4")))
        pixels, _ = pixels_of(model, scenes[0])
        folds = Folds(value_rotation=True)
        fold_encoder(model, folds, lambda m=model, p=pixels: embed(m, p), draw(seed))  # type: ignore[misc]
        weights.append(model.vision_encoder.layers[0].attn.qkv.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
