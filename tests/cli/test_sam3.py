"""A SAM 3 tracker through every verb: quantized, verified, run, and what its licence asks said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tests.families.sam3_models import SIDE, tiny_sam3
from transformers import Sam3TrackerModel

import saqsam as package
from saqsam.checkpoints.official import write_official
from saqsam.recipe import load_recipe

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam

FEW = ("calibration.images=1", "calibration.prompts=2")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam3") / "mine.pt"
    write_official(tiny_sam3(), path)
    return path


@pytest.fixture(scope="module")
def packed(official: Path, ground: Ground) -> Path:
    recipe = load_recipe("saq-sam-star-w6a6", settings=FEW)
    quantized = package.quantize(package.load(official), recipe, ground.images, ground.annotations)
    quantized.save(official.with_name("mine-w6a6.safetensors"))
    assert quantized.file is not None
    return quantized.file


def test_every_verb_takes_it(saqsam: Saqsam, packed: Path, ground: Ground, tmp_path: Path) -> None:
    assert saqsam("verify", packed).code == 0
    assert "fpn_layers.2.proj2" in saqsam("inspect", packed, "--sites").out
    image, boxes = ground.images / "000001.png", ("--box", "10,10,60,60", "--box", "40,20,90,80")
    done = saqsam("segment", packed, image, *boxes, "--json", "--out", tmp_path / "m.png")
    assert [0 < one["object_score"] < 1 for one in done.result["masks"]] == [True, True]
    assert saqsam("segment", packed, image, *boxes, "--engine", "int8").code == 0
    few = ("--points-per-side", "2", "--pred-iou-thresh", "0", "--out", tmp_path / "all.json")
    assert saqsam("everything", packed, image, *few).code == 0


def test_a_packed_model_gives_the_same_logits_again_and_in_transformers(
    packed: Path, ground: Ground, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, box = ground.images / "000001.png", [[10.0, 10, 60, 60]]
    model = package.load(packed)
    model.save_pretrained(tmp_path)
    assert f"{tmp_path}: under the SAM License" in caplog.text
    again = Sam3TrackerModel.from_pretrained(tmp_path)
    pixels = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    one, other = (
        each(pixel_values=pixels, input_boxes=torch.tensor([box]), multimask_output=True).pred_masks
        for each in (model.model, again)
    )
    assert torch.equal(one, other)
    found = package.load(tmp_path).segment(image, boxes=box)
    assert torch.equal(found.low_res_logits, model.segment(image, boxes=box).low_res_logits)
    card = (tmp_path / "README.md").read_text()
    assert "license_name: sam-license" in card.split("---")[1]
    assert "with a copy of it" in card
    settings = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    assert (settings["image_processor_type"], settings["image_mean"]) == ("Sam3ImageProcessor", [0.5] * 3)
