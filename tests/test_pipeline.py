"""The whole method on the shipped model: little lost, nothing counted twice, the same every time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import NumericalError, RecipeError, UsageError
from saqsam.models.attach import all_quantizers
from saqsam.models.plan import plan_to_store
from saqsam.models.sites import DECODER, ENCODER, WEIGHT
from saqsam.pack.convert import to_packed
from saqsam.pipeline import FOLD_IMAGES, Report, quantize_model
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Recipe, load_recipe
from saqsam.segment.predictor import decode, embed
from saqsam.shipped.embedded import embedded_sam

Scenes = tuple[CalibrationImage, ...]


def quantized(recipe: str | Recipe, scenes: Scenes, *settings: str) -> tuple[SamModel, Report]:
    model = embedded_sam("nano")
    chosen = load_recipe(recipe, settings=settings) if isinstance(recipe, str) else recipe
    return model, quantize_model(model, chosen, scenes)


def masks(model: SamModel, scene: CalibrationImage) -> Tensor:
    pixels, frame = pixels_of(model, scene)
    return decode(model, embed(model, pixels), scene.prompts, frame)[0] > 0


def agreement(model: SamModel, scenes: Scenes) -> float:
    """Mean IoU with the float model's masks on scenes that were not calibrated on."""
    reference, found = embedded_sam("nano"), []
    for scene in scenes:
        one, other = masks(reference, scene), masks(model, scene)
        both, either = (one & other).flatten(1).sum(1), (one | other).flatten(1).sum(1)
        found += ((both + 1e-6) / (either + 1e-6)).tolist()
    return sum(found) / len(found)


def test_eight_bits_lose_little_and_two_lose_much(scenes: Scenes) -> None:
    eight, _ = quantized("mse-w8a8", scenes[:3])
    assert agreement(eight, scenes[3:]) > 0.95
    two, _ = quantized("rtn-w2a2", scenes[:3])
    assert agreement(two, scenes[3:]) < 0.7


def test_clipping_saves_the_model_with_outliers(scenes: Scenes) -> None:
    """Six bits: min-max ranges spend their levels on outliers that do nothing."""
    results = {}
    for method in ("none", "pcc"):
        model = embedded_sam("nano-outliers")
        recipe = load_recipe("ptq4sam-s-w6a6", settings=[f"clip.method={method}"])
        quantize_model(model, recipe, scenes[:3])
        results[method] = agreement(model, scenes[3:])
    assert results["pcc"] > results["none"] + 0.05


FOLDED = ("folds.key_centring=true", "folds.value_output_scaling=true")


@pytest.mark.parametrize(("settings", "folded"), [((), False), (FOLDED, True)])
def test_each_image_is_encoded_once_and_counted_once(
    scenes: Scenes, settings: tuple[str, ...], folded: bool
) -> None:
    """Folds look at a few images twice: before, and after to prove that nothing changed."""
    scenes, count = scenes[:4], 4
    model, report = quantized("saq-sam-star-w4a4", scenes, *settings, "clip.images=1", "clip.prompts=2")
    assert report.encoder_passes == count + (2 * FOLD_IMAGES if folded else 0)
    assert report.to_dict()["encoder_passes"] == report.encoder_passes
    tokens, width, heads = 16 * 16, 128, 4
    prompts = sum(len(scene.prompts) for scene in scenes)
    ranges = report.ranges
    assert ranges["vision_encoder.layers.1.attn.qkv:input"].count == count * tokens * width
    assert ranges["vision_encoder.layers.1.attn:key"].count == count * tokens * width
    assert ranges["vision_encoder.layers.1.mlp.lin2:input"].count == count * tokens * 4 * width
    assert ranges["vision_encoder.neck.conv2:input"].count == count * tokens * 64
    assert ranges["mask_decoder.transformer.layers.1.mlp.lin1:input"].count == prompts * 7 * 64
    assert heads == model.config.vision_config.num_attention_heads
    clipped = {record["site"] for record in report.clips}
    assert len(clipped) == 28
    assert clipped | set(ranges) == {site.name for site in all_quantizers(model)}
    assert not clipped & set(ranges)


def test_two_runs_give_the_same_integers(scenes: Scenes) -> None:
    recipe = load_recipe("saq-sam-star-w4a4", settings=[*FOLDED, "clip.images=1", "clip.prompts=2"])
    first, second = (to_packed(*_with_report(recipe, scenes)) for _ in range(2))
    assert first.activations == second.activations
    for name, weight in first.weights.items():
        assert torch.equal(weight.codes, second.weights[name].codes)
        assert torch.equal(weight.scale, second.weights[name].scale)
        assert torch.equal(weight.zero_point, second.weights[name].zero_point)
    for name, tensor in first.rest.items():
        assert torch.equal(tensor, second.rest[name])


def _with_report(recipe: Recipe, scenes: Scenes) -> tuple[SamModel, Recipe, dict[str, object]]:
    model, _ = quantized(recipe, scenes[:2])
    return model, recipe, {}


def test_bits_of_the_parts_and_overrides_are_what_was_asked(scenes: Scenes) -> None:
    base = load_recipe("rtn-w4a4", settings=["encoder.weights=3", "encoder.activations=8"]).to_dict()
    base["overrides"] = {
        "vision_encoder.neck.*": {"keep_float": True},
        "*.cross_attn_token_to_image:attention": {"grid": "log2", "bits": 6},
    }
    original = embedded_sam("nano")
    model, _ = quantized(Recipe.from_dict(base), scenes[:2])
    for site, quantizer in all_quantizers(model).items():
        wanted = {ENCODER: (3, 8), DECODER: (4, 4)}[site.part][site.role != WEIGHT]
        if site.name.endswith(".cross_attn_token_to_image:attention"):
            assert (quantizer.grid.bits, quantizer.grid.name) == (6, "log2")
        else:
            assert (quantizer.grid.bits, quantizer.grid.name) == (wanted, "affine")
        if site.role == WEIGHT:
            weight = model.get_submodule(site.path).weight
            rows = weight.reshape(len(weight), -1)
            assert max(row.unique().numel() for row in rows) <= 2**wanted
    assert not any("neck" in site.path for site in all_quantizers(model))
    kept = original.vision_encoder.neck.conv1.weight
    assert torch.equal(model.vision_encoder.neck.conv1.weight, kept.half().float())


def test_overrides_that_a_file_would_turn_round_are_refused_at_once(scenes: Scenes) -> None:
    base = load_recipe("rtn-w8a8").to_dict()
    narrow, wide = {"*lin1:weight": {"bits": 4}}, {"*:weight": {"bits": 6}}
    plan_to_store(embedded_sam("nano"), Recipe.from_dict({**base, "overrides": wide | narrow}))
    turned = Recipe.from_dict({**base, "overrides": narrow | wide})
    with pytest.raises(RecipeError, match=r"alphabetical order.* 7 sites would change.*lin1:weight"):
        quantized(turned, scenes[:1])


def test_an_override_that_matches_nothing_is_refused(scenes: Scenes) -> None:
    base = load_recipe("rtn-w4a4").to_dict()
    base["overrides"] = {"vision_encoder.neck.conv3:*": {"bits": 8}}
    with pytest.raises(RecipeError, match="matches no site"):
        quantized(Recipe.from_dict(base), scenes[:1])


def test_images_without_prompts_are_no_calibration(scenes: Scenes) -> None:
    empty = CalibrationImage(scenes[0].path, Prompts())
    with pytest.raises(UsageError, match="at least one prompt"):
        quantized("rtn-w4a4", (empty,))
    _, report = quantized("rtn-w4a4", (empty, scenes[1]))
    assert report.images == [scenes[1].path.name]


LAYER = "mask_decoder.transformer.layers.0.cross_attn_image_to_token"


@pytest.mark.parametrize(
    ("recipe", "parameter", "site"),
    [
        (
            "rtn-w4a4",
            "vision_encoder.patch_embed.projection.weight",
            "vision_encoder.layers.0.attn.qkv:input",
        ),
        ("ptq4sam-s-w4a4", "vision_encoder.layers.3.attn.qkv.weight", "vision_encoder.layers.3.attn:query"),
        ("rtn-w4a4", "vision_encoder.layers.2.mlp.lin1.bias", "vision_encoder.layers.2.mlp.lin2:input"),
        ("rtn-w4a4", f"{LAYER}.k_proj.weight", f"{LAYER}:key"),
        ("ptq4sam-s-w4a4", f"{LAYER}.k_proj.weight", f"{LAYER}:key"),
        ("saq-sam-star-w4a4", f"{LAYER}.k_proj.weight", f"{LAYER}:key"),
    ],
)
def test_nan_in_a_weight_stops_the_run_where_it_shows(
    scenes: Scenes, recipe: str, parameter: str, site: str
) -> None:
    model = embedded_sam("nano")
    model.get_parameter(parameter).view(-1)[0] = torch.nan
    with pytest.raises(NumericalError) as caught:
        quantize_model(model, load_recipe(recipe), scenes[:1])
    assert caught.value.exit_code == 4
    assert caught.value.site == site


def test_infinity_in_a_weight_stops_the_run(scenes: Scenes) -> None:
    model = embedded_sam("nano")
    model.get_parameter("vision_encoder.layers.3.attn.qkv.weight")[0, 0] = torch.inf
    with pytest.raises(NumericalError):
        quantize_model(model, load_recipe("rtn-w4a4"), scenes[:1])


def test_progress_is_told_and_the_float_copy_is_left_alone(scenes: Scenes) -> None:
    original = embedded_sam("nano")
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    told: list[tuple[str, int, int]] = []

    def watch(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    quantize_model(copy.deepcopy(original), load_recipe("rtn-w4a4"), scenes[:2], watch)
    assert ("encoder ranges", 2, 2) in told
    assert ("decoder ranges", 2, 2) in told
    assert all(0 <= done <= total for _, done, total in told)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])
