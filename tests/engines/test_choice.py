"""``--engine``: the integer runtime from the command line, and what it cannot do said in one line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saqsam.api import load, quantize
from saqsam.cli.app import run
from saqsam.native.library import LEVELS, levels_here
from saqsam.recipe import load_recipe
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 2, 15).parent


@pytest.fixture(scope="session")
def packed(packed_nano: Callable[[str], Path]) -> Path:
    return packed_nano("ptq4sam-s-w4a4")


def test_segment_draws_the_same_mask(packed: Path, scenes: Path, tmp_path: Path) -> None:
    image = str(scenes / "images" / "000002.png")
    for runtime in ("torch", "onnxruntime"):
        arguments = ["segment", str(packed), image, "--box", "15,0,71,53", "--engine", runtime]
        assert run([*arguments, "--out", str(tmp_path / f"{runtime}.png")]) == 0
    masks = [np.asarray(Image.open(tmp_path / f"{name}.png")) > 0 for name in ("torch", "onnxruntime")]
    assert masks[0].any()
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.99


def test_evaluate_compare_and_everything_take_it(
    packed: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = ["--images", str(scenes / "images"), "--annotations", str(scenes / "instances.json"), "--json"]
    chosen = ["--engine", "onnxruntime"]
    results = []
    for runtime in (chosen, []):
        assert run(["evaluate", str(packed), *dataset, *runtime]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["mIoU"] == pytest.approx(results[1]["mIoU"], abs=0.02)
    assert run(["compare", "nano", str(packed), *dataset, *chosen]) == 0
    out = tmp_path / "all.json"
    image = str(scenes / "images" / "000001.png")
    options = ["--points-per-side", "4", "--pred-iou-thresh", "0.1", "--out", str(out)]
    assert run(["everything", str(packed), image, *options, *chosen]) == 0
    assert out.exists()


def test_the_choice_is_told_only_if_asked(
    packed: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(scenes / "images" / "000001.png")
    words = ["segment", str(packed), image, "--point", "60,60", "--engine", "onnxruntime"]
    words += ["--out", str(tmp_path / "mask.png"), "--force"]
    told = []
    for asked in ([], ["-v"]):
        assert run([*asked, *words]) == 0
        told.append(capsys.readouterr().err)
    assert "integer products" not in told[0]
    assert told[1].count(f"{packed}: integer products by ONNX Runtime") == 1
    assert "codes to 15 by integers to" in told[1]


def test_the_fastest_is_taken_that_can(
    packed: Path, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hybrid = load_recipe("rtn-w4a4", settings=("activation_grids.mlp_hidden=hybrid",))
    files = scenes / "images", scenes / "instances.json"
    quantize(load("nano"), hybrid, *files).save(tmp_path / "hybrid.safetensors")
    built = any(LEVELS[level] != "plain" for level in levels_here())
    image = scenes / "images" / "000001.png"
    with caplog.at_level(logging.WARNING, "saqsam"):
        fast, simulated = (load(path, engine="auto") for path in (packed, tmp_path / "hybrid.safetensors"))
        assert load("nano", engine="auto").engine == "torch"
    assert fast.engine == ("native" if built else "onnxruntime")
    assert simulated.engine == "torch"
    assert not caplog.records
    masks = [sam.segment(image, boxes=[20, 20, 90, 90]).masks[0] for sam in (fast, load(packed))]
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.99


@pytest.mark.parametrize(
    ("model", "runtime", "message"),
    [
        ("nano", "onnxruntime", "runs packed files"),
        (
            "nano",
            "tensorrt",
            "--engine tensorrt: expected auto, torch, onnxruntime, native, int8 or compiled",
        ),
    ],
)
def test_what_it_cannot_do_is_one_line(
    model: str, runtime: str, message: str, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(scenes / "images" / "000001.png")
    assert run(["segment", model, image, "--point", "9,9", "--engine", runtime]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
