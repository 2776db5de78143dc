"""Learning a block on some of its rows: the same numbers, an unbiased loss, and less work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import RecipeError
from saqsam.families.sam_rows import SamRows
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pipeline import Report, calibrated_copy
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.units import Unit, encoder_units

Quantized = Callable[..., tuple[SamModel, Report]]
ImagesFor = Callable[[Recipe], Sequence[CalibrationImage]]
PLAIN = ("weight_ranges.method=minmax", "activation_ranges.method=minmax")


@given(st.integers(1, 70), st.sampled_from([0, 3, 14]), st.floats(0.01, 1.0))
def test_subsets_are_whole_windows_and_cover_every_row_once(height: int, window: int, share: float) -> None:
    block = nn.Module()
    block.window_size = window
    subsets = SamRows(block).split(height, share)
    assert [row for rows in subsets for row in range(rows.start, rows.stop)] == list(range(height))
    assert all(rows.stop > rows.start and rows.start % max(1, window) == 0 for rows in subsets)
    if not window and 1 / share <= height:
        assert len(subsets) == max(1, round(1 / share))


@pytest.fixture
def blocks(tiny_sam: SamModel, images_for: ImagesFor) -> list[tuple[SamModel, Unit]]:
    """A windowed block and a global one, calibrated at 8 bits."""
    recipe = load_recipe("brecq-w8a8", settings=("calibration.images=2", "calibration.prompts=2", *PLAIN))
    images = images_for(recipe)
    model = calibrated_copy(tiny_sam, recipe, images)
    asked = [(image.prompts, pixels_of(model, image)[1]) for image in images]
    prompting = Prompting.of(model, asked, 2, torch.Generator())
    units = [unit for unit in encoder_units(model, prompting, "block") if unit.rows is not None][:2]
    windows = [layer.window_size for layer in model.vision_encoder.layers[:2]]
    assert windows[0] > 0 == windows[1]
    return [(model, unit) for unit in units]


def test_a_subset_is_what_the_whole_block_gives_there(blocks: list[tuple[SamModel, Unit]]) -> None:
    x = torch.randn(2, 8, 8, 48, generator=torch.Generator().manual_seed(0))
    for model, unit in blocks:
        assert unit.rows is not None
        for overrides in ({}, unquantized(all_quantizers(model).values())):
            with torch.no_grad(), overridden(overrides):
                (whole,) = unit.run((x,))
                for rows in unit.rows.split(8, 0.3):
                    found = unit.rows.run(x, rows)
                    assert found.shape == whole[:, rows].shape
                    apart = float((found - whole[:, rows]).norm() / whole.norm())
                    assert apart < (1e-6 if overrides else 1e-3)


@pytest.mark.parametrize("kept", ["vision_encoder.*:attention", "vision_encoder.*"])
def test_a_subset_of_a_block_with_a_float_map_is_the_same(
    kept: str, tiny_sam: SamModel, images_for: ImagesFor
) -> None:
    """Fused attention answers where nothing quantizes the map."""
    settings = ("calibration.images=1", "calibration.prompts=2", *PLAIN, f"overrides.{kept}.keep_float=true")
    recipe = load_recipe("qdrop-w8a8", settings=settings)
    model = calibrated_copy(tiny_sam, recipe, images_for(recipe))
    block = model.vision_encoder.layers[1]
    x = torch.randn(1, 8, 8, 48, generator=torch.Generator().manual_seed(0))
    rows_of_block = SamRows(block)
    with torch.no_grad():
        found = torch.cat([rows_of_block.run(x, rows) for rows in rows_of_block.split(8, 0.3)], dim=1)
        torch.testing.assert_close(found, block(x), rtol=1e-4, atol=1e-4)


def test_losses_of_subsets_average_to_the_loss_of_all_rows(blocks: list[tuple[SamModel, Unit]]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(1, 8, 8, 48, generator=generator) for _ in range(2))
    for model, unit in blocks:
        assert unit.rows is not None
        problem = Problem(unit, [(x,)], [(x,)], [(target,)], None, (0.0, 1.0))
        with torch.no_grad(), overridden(unquantized(all_quantizers(model).values())):
            expected = float(problem.terms(problem.run([0], None), [0])["local"])
            found = 0.0
            for rows in unit.rows.split(8, 0.3):
                part = problem.terms(problem.run([0], None, rows), [0], rows=rows)["local"]
                found += float(part) * (rows.stop - rows.start) / 8
        assert found == pytest.approx(expected, rel=1e-5)


def test_learning_on_a_third_of_the_rows_helps_and_repeats(quantized: Quantized) -> None:
    settings = ("reconstruct.row_share=0.34", "reconstruct.iterations=30", "reconstruct.weight_rate=0.05")
    _, report = quantized("qdrop-w4a4", *settings)
    records = [unit for unit in report.units if "block" in unit["unit"]]
    assert [record["kept"] for record in records] == ["learned"] * 4
    assert all(record["after"] < 0.95 * record["before"] for record in records)
    # Whether it repeats shows in the first steps.
    few = ("calibration.images=1", "reconstruct.iterations=2", settings[2])
    model, _ = quantized("qdrop-w4a4", settings[0], *few)
    again, _ = quantized("qdrop-w4a4", settings[0], *few)
    others, _ = quantized("qdrop-w4a4", *few)
    weights = [
        torch.cat(
            [
                found.get_submodule(site.path).weight.flatten()
                for site in all_quantizers(found)
                if site.role == WEIGHT
            ]
        )
        for found in (model, again, others)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("recipe", ["saq-sam-w4a4", "adaround-w4a4"])
def test_it_is_refused_where_tokens_do_not_count_apart(recipe: str) -> None:
    with pytest.raises(RecipeError, match="row_share is for losses in which every token counts for itself"):
        load_recipe(recipe, settings=("reconstruct.row_share=0.5",))
