"""What the released code would report: evaluated, counted, and never stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import make_tiny_sam
from transformers import SamModel

from saqsam.api import quantize
from saqsam.errors import InvariantError, RecipeError, UsageError
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import INPUT, WEIGHT
from saqsam.pack.audit import audit
from saqsam.pack.convert import to_packed
from saqsam.pack.freeze import freeze
from saqsam.published.off_grid import OffGridSam, quantize_as_published
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.segment.predictor import embed

QUICK = (
    *("calibration.images=2", "calibration.prompts=2", "reconstruct.iterations=2", "clip.method=none"),
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax"),
)


@pytest.fixture(scope="module", params=["saq-sam", "qdrop"])
def published(request: pytest.FixtureRequest, scenes: Path) -> OffGridSam:
    """Not to be changed, but for its coins."""
    recipe = load_recipe(f"{request.param}-w4a4", settings=QUICK)
    sam = Sam(make_tiny_sam(), "tiny")
    return quantize_as_published(sam, recipe, scenes / "images", scenes / "instances.json")


def pixels(sam: Sam) -> torch.Tensor:
    side = sam.model.config.vision_config.image_size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(5))


def test_weights_off_the_grid_are_counted(published: OffGridSam) -> None:
    """By distance to the nearest of the 16 values of each channel, not by a round trip."""
    off = total = 0
    for site, quantizer in all_quantizers(published.model).items():
        if site.role == WEIGHT:
            weight = layer_at(published.model, site).effective_weight().detach().flatten(1)
            codes = torch.arange(2**quantizer.bits)
            values = (codes[None] - quantizer.affine.zero_point[:, None]) * quantizer.affine.scale[:, None]
            nearest = (weight[:, :, None] - values[:, None, :]).abs().amin(-1)
            off += int((nearest > 1e-4 * quantizer.affine.scale[:, None]).sum())
            total += weight.numel()
    share = published.records["off_grid"]["weights"]
    assert share == pytest.approx(off / total, abs=0.01)
    assert 0.1 < share < 1.0


def test_coins_go_on_falling_at_inputs(published: OffGridSam) -> None:
    assert 0.05 < published.records["off_grid"]["activations"] < 0.6
    quantizer = next(
        q for s, q in all_quantizers(published.model).items() if s.role == INPUT and q.override is not None
    )
    x = torch.linspace(-1, 1, 100_001) * float(quantizer.affine.scale.flatten()[0]) * 3
    same = quantizer(x) == x
    assert float(same.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_evaluations_differ_by_seed_alone(published: OffGridSam) -> None:
    found = []
    for seed in (1, 2, 1):
        published.coins.manual_seed(seed)
        with torch.no_grad():
            found.append(embed(published.model, pixels(published)).main)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_nothing_stores_it(published: OffGridSam, tmp_path: Path) -> None:
    recipe = published.quantization
    assert recipe is not None
    assert published.bits == "w4a4, not on the grid"
    with pytest.raises(UsageError, match=r"not on the grid.*quantize with the recipe"):
        published.save(tmp_path / "model.saqsam")
    with pytest.raises(UsageError, match=r"not on the grid.*quantize with the recipe"):
        published.save_pretrained(tmp_path / "model")
    with pytest.raises(InvariantError, match="another function answers in its place"):
        freeze(published.model, recipe)
    with pytest.raises(InvariantError, match="another function answers in its place"):
        to_packed(published.model, recipe, {})
    assert not list(tmp_path.iterdir())


def test_the_honest_recipe_passes_its_audit(tiny_sam: SamModel, scenes: Path) -> None:
    recipe = load_recipe("saq-sam-w4a4", settings=QUICK)
    honest = quantize(Sam(tiny_sam, "tiny"), recipe, scenes / "images", scenes / "instances.json")
    assert audit(honest.model, recipe).ok


@pytest.mark.parametrize("name", ["rtn", "adaround", "best-closed-form"])
def test_only_learned_rounding_under_coins(name: str, tiny_sam: SamModel, scenes: Path) -> None:
    with pytest.raises(RecipeError, match=r"as published.*use qdrop"):
        quantize_as_published(Sam(tiny_sam, "tiny"), name, scenes / "images", scenes / "instances.json")


def test_its_name_is_refused_before_any_work() -> None:
    with pytest.raises(RecipeError, match=r"use 'saq-sam', or 'saqsam evaluate --as-published saq-sam'"):
        load_recipe("as-published-saq-sam-w4a4")
