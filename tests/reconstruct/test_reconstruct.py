"""Reconstruction on a whole tiny SAM: honest at the end, better than nearest rounding, repeatable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import InvariantError, RecipeError
from saqsam.jobs.directory import open_run
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pack.audit import audit
from saqsam.pipeline import Report, quantize_model
from saqsam.recipe import Recipe, Reconstruct, load_recipe
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.units import encoder_groups

PLAIN = ("weight_ranges.method=minmax", "activation_ranges.method=minmax", "clip.method=none")
QUICK = ("calibration.images=4", "calibration.prompts=3", "reconstruct.iterations=8", *PLAIN)

Quantized = Callable[..., tuple[SamModel, Report]]
ImagesFor = Callable[[Recipe], Sequence[CalibrationImage]]


CLOSED = ("reconstruct.rounding=gptq", "reconstruct.clicks=0.5", "reconstruct.scales=false")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, ()) for name in ("adaround", "brecq", "qdrop", "ptq4sam-l", "saq-sam")),
        ("best", ("reconstruct.whole_iterations=3",)),
        ("saq-sam", CLOSED),
        ("qdrop", (*CLOSED, "reconstruct.compensate=all", "reconstruct.targets=quantized-input")),
    ],
)
def test_every_method_ends_audited_and_no_worse(
    quantized: Quantized, name: str, settings: tuple[str, ...]
) -> None:
    model, report = quantized(f"{name}-w4a4", "reconstruct.iterations=3", *settings)
    recipe = load_recipe(f"{name}-w4a4", settings=QUICK)
    result = audit(model, recipe)
    assert result.ok, result.failures
    for unit in report.units:
        assert unit["after"] <= unit["before"] * (1 + 1e-5) or unit["kept"] == "nearest"


def test_learning_in_half_precision_helps_and_ends_on_the_grid(quantized: Quantized) -> None:
    settings = ("reconstruct.iterations=28", "reconstruct.weight_rate=0.08", "reconstruct.scale_rate=0.01")
    full, _ = quantized("saq-sam-w4a4", *settings)
    half, report = quantized("saq-sam-w4a4", *settings, "reconstruct.autocast=true")
    assert {unit["kept"] for unit in report.units} == {"learned"}
    assert audit(half, load_recipe("saq-sam-w4a4", settings=QUICK)).ok
    sites = [site for site in all_quantizers(full) if site.role == WEIGHT]
    same = [torch.equal(*(m.get_submodule(s.path).weight for m in (full, half))) for s in sites]
    assert not all(same)
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_held_out_images_profit(quantized: Quantized, tiny_sam: SamModel, images_for: ImagesFor) -> None:
    """The embeddings of images that were not calibrated on come nearer to the float model's."""
    settings = ("reconstruct.iterations=40", "reconstruct.weight_rate=0.03", "reconstruct.scale_rate=0.01")
    settings = (*settings, "reconstruct.decoder=none", "reconstruct.local_weight=1.0")
    nearest, _ = quantized("saq-sam-star-w3a3")
    learned, report = quantized("saq-sam-w3a3", *settings)
    assert {unit["kept"] for unit in report.units} == {"learned"}
    used = {image.path for image in images_for(load_recipe("mse", settings=QUICK))}
    everything = images_for(load_recipe("mse", settings=["calibration.images=8"]))
    held_out = [image for image in everything if image.path not in used]
    assert len(held_out) == 4

    def error(model: SamModel) -> float:
        total = 0.0
        for image in held_out:
            pixels, _ = pixels_of(model, image)
            with torch.no_grad():
                wanted = tiny_sam.vision_encoder(pixels).last_hidden_state
                total += float((model.vision_encoder(pixels).last_hidden_state - wanted).square().mean())
        return total

    assert error(learned) < 0.9 * error(nearest)


def test_the_same_call_gives_the_same_integers(shared: Quantized, quantized: Quantized) -> None:
    (first, _), (second, _) = shared("saq-sam-w4a4"), quantized("saq-sam-w4a4")
    for site, quantizer in all_quantizers(first).items():
        other = all_quantizers(second)[site]
        assert torch.equal(quantizer.grid.numbers(), other.grid.numbers()), site.name
        if site.role == WEIGHT:
            weights = (model.get_submodule(site.path).weight for model in (first, second))
            assert torch.equal(*weights), site.name


def test_learning_changes_integers_and_scales_but_no_weight_grid(shared: Quantized) -> None:
    (nearest, _), (learned, _) = shared("saq-sam-star-w4a4"), shared("saq-sam-w4a4")
    moved = 0
    for site, quantizer in all_quantizers(learned).items():
        before = all_quantizers(nearest)[site]
        assert quantizer.grid.to_packed().zero_point == before.grid.to_packed().zero_point
        if site.role == WEIGHT:
            assert torch.equal(quantizer.grid.numbers(), before.grid.numbers())
            now, then = (m.get_submodule(site.path).weight for m in (learned, nearest))
            steps = (now - then).abs() / quantizer.affine.shaped(now)[0]
            assert steps.max() < 1.001  # floor or ceiling: at most one step from the nearest value
            moved += int((steps > 0.5).sum())
    assert moved > 100


def test_a_weight_that_is_still_softly_rounded_cannot_be_frozen(
    tiny_sam: SamModel, shared: Quantized
) -> None:
    model, _ = shared("rtn-w4a4")
    site, quantizer = next((s, q) for s, q in all_quantizers(model).items() if s.role == WEIGHT)
    fresh = type(quantizer)(site.name, 4, channels=quantizer.channels)
    fresh.set(quantizer.grid)
    with (
        overridden(unquantized([fresh])),
        pytest.raises(InvariantError, match="another function answers in its place"),
    ):
        fresh.freeze()
    fresh.freeze()


def test_a_weight_left_between_grid_values_fails_the_audit(quantized: Quantized) -> None:
    model, _ = quantized("rtn-w4a4")
    layer = model.get_submodule("mask_decoder.transformer.layers.1.mlp.lin1")
    layer.weight.data[0, 0] += 0.3 * layer.weight_quantizer.affine.scale[0]
    (failure,) = audit(model, load_recipe("rtn-w4a4", settings=QUICK)).failures
    assert failure.site == "mask_decoder.transformer.layers.1.mlp.lin1:weight"


def test_freezing_changes_nothing_that_was_learned(
    tiny_sam: SamModel, images_for: ImagesFor, tmp_path: Path
) -> None:
    """What learning stored as integers is what the frozen model computes with."""
    recipe = load_recipe("saq-sam-w4a4", settings=(*QUICK, "reconstruct.iterations=2"))
    with open_run(tmp_path, {}) as directory:
        quantize_model(tiny_sam, recipe, images_for(recipe), directory=directory)
    learned: dict[str, torch.Tensor] = {}
    for part in (tmp_path / "parts").iterdir():
        learned |= load_file(part)
    sites = [site for site in all_quantizers(tiny_sam) if site.role == WEIGHT]
    assert len(sites) == 50
    for site in sites:
        grid, weight = all_quantizers(tiny_sam)[site].grid, tiny_sam.get_submodule(site.path).weight
        assert torch.equal(grid.values(learned[f"{site.name}/codes"].float()), weight), site.name


def test_stages_end_at_global_blocks(tiny_sam: SamModel) -> None:
    assert encoder_groups(tiny_sam, "stage") == [range(0, 2), range(2, 4)]
    assert encoder_groups(tiny_sam, "block") == [range(i, i + 1) for i in range(4)]
    tiny_sam.config.vision_config.global_attn_indexes = [2]
    assert encoder_groups(tiny_sam, "stage") == [range(0, 3), range(3, 4)]
    tiny_sam.config.vision_config.global_attn_indexes = []
    assert encoder_groups(tiny_sam, "stage") == [range(0, 4)]


def test_each_unit_has_random_numbers_of_its_own() -> None:
    draws = [torch.rand(4, generator=seeded(seed, name)) for seed, name in [(0, "a"), (0, "b"), (1, "a")]]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    assert torch.equal(draws[0], torch.rand(4, generator=seeded(0, "a")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "layer", "encoder": "par"}, "single layers have no prompt-aware loss"),
        ({"unit": "layer", "rounding": "gptq"}, "layer by layer inside its unit"),
    ],
)
def test_impossible_combinations_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Reconstruct(**settings)  # type: ignore[arg-type]
