"""Learning a SAM 2: units by stage, prompts that see only stages the neck joins, runs that go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.families.sam2_models import tiny_sam2

from saqsam import api
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import load_recipe
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.units import encoder_units
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

SETTINGS = (
    *("reconstruct.iterations=1", "reconstruct.batch=1", "reconstruct.prompts=2", "clip.method=none"),
    *("calibration.images=1", "calibration.prompts=2"),
)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam(tiny_sam2(), "tiny")


def test_prompts_see_the_stages_that_the_neck_joins(sam: Sam) -> None:
    asked = [(Prompts(boxes=torch.tensor([[10.0, 10, 60, 60]])), Frame((128, 128), (128, 128), 128))]
    prompting = Prompting.of(sam.model, asked, 1, torch.Generator().manual_seed(0))
    units = list(encoder_units(sam.model, prompting, "stage"))
    seen = [unit.view is not None for unit in units]
    assert [unit.name for unit in units][-1] == "neck"
    assert seen == [False, False, True, True, True, True]  # two fine stages; third in two parts, fourth, neck


def test_a_run_goes_on_and_gives_the_same_model(sam: Sam, tmp_path: Path) -> None:
    annotations = write_scenes(tmp_path / "scenes", 1, 7)
    recipe = load_recipe("saq-sam-w4a4", settings=SETTINGS)
    given = (sam, recipe, tmp_path / "scenes" / "images", annotations)
    first = api.quantize(*given, run_dir=tmp_path / "run")
    parts = sorted((tmp_path / "run" / "parts").iterdir())
    for part in parts[len(parts) // 2 :]:
        part.unlink()
    again = api.quantize(*given, run_dir=tmp_path / "run")
    one, other = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {unit["unit"] for unit in first.records["units"]} >= {"encoder-stage-0", "neck", "final-attention"}
