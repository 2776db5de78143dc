"""``saqsam export``: what it prints, and exit codes with one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saqsam.cli.app import run
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 2, 14).parent


@pytest.fixture(scope="session")
def packed(packed_nano: Callable[[str], Path]) -> Path:
    return packed_nano("rtn-w4a8")


def test_it_verifies_on_the_users_images(
    packed: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(packed), "--out", str(tmp_path / "out"), "--json", "--limit", "1"]
    arguments += ["--images", str(scenes / "images"), "--annotations", str(scenes / "instances.json")]
    assert run(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert set(done["bytes"]) == {"encoder.onnx", "decoder.onnx", "parity.json"}
    assert done["parity"]["images"] == ["000001.png"]
    assert done["parity"]["equal_codes"] >= 0.999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "the formats are onnx"),
        (["--opset", "12"], "opset 12"),
        (["--annotations", "nothing.json"], "there is no such file"),
        (["--images", "nothing"], "there is no such directory"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    packed: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(packed), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_files_that_exist_are_kept_without_force(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_text("mine")
    assert run(["export", str(packed), "--out", str(tmp_path), "--no-verify"]) == 2
    assert (tmp_path / "encoder.onnx").read_text() == "mine"
    assert run(["export", str(packed), "--out", str(tmp_path), "--no-verify", "--force"]) == 0
    assert (tmp_path / "encoder.onnx").stat().st_size > 100_000
