"""Closed form from one pass of each unit: nearly as good as layer by layer, resumable, and cheap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from saqsam import api
from saqsam.calibrate.images import CalibrationImage
from saqsam.errors import RecipeError
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pipeline import Report
from saqsam.recipe import Recipe, Reconstruct, load_recipe
from saqsam.sam import Sam

Quantized = Callable[..., tuple[SamModel, Report]]


def test_it_beats_nearest_rounding(shared: Quantized) -> None:
    _, once = shared("best-closed-form-w3a8")
    _, each = shared("best-closed-form-w3a8", "reconstruct.passes=layer")
    assert [unit["unit"] for unit in once.units] == [*(f"encoder-block-{i}" for i in range(4)), "neck"]
    first, other = once.units[0], each.units[0]
    assert first["before"] == pytest.approx(other["before"], rel=1e-3)
    assert first["after"] < 0.75 * first["before"]


def test_only_the_encoder_moves(shared: Quantized) -> None:
    model, _ = shared("best-closed-form-w4a4")
    nearest, _ = shared("best-closed-form-w4a4", "reconstruct.encoder=none")
    for site, quantizer in all_quantizers(model).items():
        assert torch.equal(quantizer.grid.numbers(), all_quantizers(nearest)[site].grid.numbers()), site.name
        if site.role == WEIGHT:
            same = torch.equal(*(m.get_submodule(site.path).weight for m in (model, nearest)))
            assert same == (site.part == "decoder"), site.name


def test_each_block_runs_three_times_for_each_image(
    tiny_sam: SamModel, images_for: Callable[[Recipe], Sequence[CalibrationImage]], quantized: Quantized
) -> None:
    """Once float, twice quantized, and once more in all for the estimate; the rest is calibration."""
    calls = []
    kind = type(tiny_sam.vision_encoder.layers[0])
    forward = kind.forward

    def counted(self: object, *arguments: object, **keywords: object) -> object:
        calls.append(self)
        return forward(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "forward", counted)
        quantized("best-closed-form-w4a4", "reconstruct.encoder=none")
        calibration = len(calls)
        calls.clear()
        quantized("best-closed-form-w4a4")
    images, blocks = 4, 4
    assert len(calls) - calibration == blocks * (3 * images + 1)


def test_an_interrupted_run_goes_on_to_the_same_integers(
    tiny_sam: SamModel, scenes: Path, tmp_path: Path
) -> None:
    few = ("calibration.images=3", "mixed.offsets=[1]", "mixed.images=1", "mixed.probes=1")
    recipe = load_recipe("best-closed-form-w4a4", settings=(*few, "clip.method=none"))
    sam = Sam(tiny_sam, "tiny")

    def run() -> SamModel:
        return api.quantize(sam, recipe, scenes / "images", scenes / "instances.json", run_dir=tmp_path).model

    first = run()
    for part in ("encoder-block-2", "encoder-block-3", "neck"):
        (tmp_path / "parts" / f"{part}.safetensors").unlink()
    second = run()
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name


def test_it_goes_with_nothing_learned() -> None:
    with pytest.raises(RecipeError, match="closed form alone"):
        Reconstruct(passes="unit", rounding="gptq")
