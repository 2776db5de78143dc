"""A SAM 2 from its official file through every verb: quantized, verified, run by every engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tests.families.sam2_models import tiny_sam2
from transformers import Sam2Model

import saqsam as package
from saqsam.checkpoints.official import write_official
from saqsam.native.library import levels_here

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2") / "mine.pt"
    write_official(tiny_sam2(), path)
    return path


@pytest.fixture(scope="module")
def packed(official: Path, ground: Ground) -> Path:
    model = package.load(official)
    quantized = package.quantize(model, "saq-sam-star-w6a6", ground.images, ground.annotations)
    quantized.save(official.with_name("mine-w6a6.safetensors"))
    assert quantized.file is not None
    return quantized.file


def test_every_verb_takes_it(
    saqsam: Saqsam, packed: Path, official: Path, ground: Ground, tmp_path: Path
) -> None:
    assert saqsam("verify", packed).code == 0
    assert "blocks.1.proj" in saqsam("inspect", packed, "--sites").out
    image, boxes = ground.images / "000001.png", ("--box", "10,10,60,60", "--box", "40,20,90,80")
    done = saqsam("segment", packed, image, *boxes, "--json", "--out", tmp_path / "m.png")
    assert [0 < one["object_score"] < 1 for one in done.result["masks"]] == [True, True]
    assert "object" in saqsam("segment", official, image, *boxes).out
    truth = ("--images", ground.images, "--annotations", ground.annotations, "--limit", "1")
    scores = saqsam("evaluate", packed, *truth, "--reference", official, "--json")
    assert scores.code == 0
    assert 0 <= scores.result["agreement"] <= 1
    few = ("--points-per-side", "2", "--pred-iou-thresh", "0", "--out", tmp_path / "all.json")
    assert saqsam("everything", packed, image, *few).code == 0


def test_a_packed_model_gives_the_same_logits_again_and_in_transformers(
    packed: Path, ground: Ground, tmp_path: Path
) -> None:
    image, box = ground.images / "000001.png", [[10.0, 10, 60, 60]]
    model = package.load(packed)
    model.save_pretrained(tmp_path)
    again = Sam2Model.from_pretrained(tmp_path)
    pixels = torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    one, other = (
        each(pixel_values=pixels, input_boxes=torch.tensor([box]), multimask_output=True).pred_masks
        for each in (model.model, again)
    )
    assert torch.equal(one, other)
    found = package.load(tmp_path).segment(image, boxes=box)
    assert torch.equal(found.low_res_logits, model.segment(image, boxes=box).low_res_logits)


def test_engines_that_know_it_run_and_others_say_what_does(
    saqsam: Saqsam,
    packed: Path,
    ground: Ground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, box = ground.images / "000001.png", ("--box", "10,10,60,60")
    assert saqsam("segment", packed, image, *box, "--engine", "int8").code == 0
    done = saqsam("export", packed, "--format", "web", "--out", tmp_path / "page", "--no-verify")
    assert "not verified" in done.out  # of random weights not even the model agrees with itself
    (entry,) = json.loads((tmp_path / "page" / "manifest.json").read_text())["models"]
    assert (entry["pads"], entry["ends_prompts"], entry["tensors"]["masks"]) == (False, True, "masks")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert saqsam("segment", packed, image, *box, "--engine", "native").code == 0
    assert ("its kernels were not built" in caplog.text) == (not levels_here())
