"""``saqsam demo``: everything it speaks of is there, on scenes, photographs and one's own picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from saqsam.cli.demo_prompts import PHOTOGRAPHS, installed_photographs
from saqsam.pack.verify import verify_file
from saqsam.prompts.prompts import checked_prompts

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam

SHORT = ("--images", "1", "--calibration", "1", "--pictures", "1")


@pytest.mark.slow
def test_without_scikit_image_scenes_are_drawn_and_it_says_what_to_do(
    saqsam: Saqsam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)  # as Python finds it where it is not installed
    out = tmp_path / "demo"
    shown = saqsam("demo", "--out", out, *SHORT, "--json")
    assert shown.code == 0
    assert "calibrating on 1 of 1 pictures" in shown.err
    rows = shown.result["rows"]
    assert {row["model"] for row in rows} == {"nano", "nano-outliers"}
    quantized = [row for row in rows if row["bits"] != "float"]
    packed = list((out / "packed").iterdir())
    assert sorted(row["file_bytes"] for row in quantized) == sorted(path.stat().st_size for path in packed)
    assert shown.result["pictures"]
    assert all(Path(path).is_file() for path in shown.result["pictures"])
    assert shown.result["photographs"] == []
    assert "pip install 'saqsam[demo]'" in shown.result["notes"][0]
    assert shown.result["seconds"] > 0


def test_ones_own_picture_is_answered_in_float_and_quantized(
    saqsam: Saqsam, ground: Ground, tmp_path: Path
) -> None:
    image = ground.images / "000001.png"
    out = tmp_path / "demo"
    words = ("--image", image, "--box", "10,10,60,60", "--point", "90,80", "--point", "30,30")
    cheap = ("--recipe", "mse-w4a4", "--calibration", "1")
    shown = saqsam("demo", "--out", out, *words, *cheap, "--json")
    assert shown.code == 0
    [row] = shown.result["photographs"]
    assert (row["photograph"], row["boxes"], row["clicks"]) == ("000001", 1, 2)
    assert 0 < row["agreement"] <= 1
    assert 0 <= row["differs"] < 1
    assert shown.result["rows"] == []
    [packed] = (out / "packed").iterdir()
    assert verify_file(packed).ok
    [picture] = shown.result["pictures"]
    with Image.open(picture) as opened, Image.open(image) as original:
        assert opened.width > 3 * original.width, "float, 4 bits, and what differs"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--box", "1,2,30,40"), "--box: belongs to your own picture"),
        (("--point", "1,2"), "--point: belongs to your own picture"),
        (("--image", "{images}/000001.png"), "nothing to segment; give --box"),
        (("--recipe", "mse-w99a4"), "w99a4"),
        (("--image", "{images}/none.png", "--box", "1,2,30,40"), "none.png"),
        (("--image", "{images}/000001.png", "--box", "1,2,30"), "--box 1,2,30: expected 4 numbers"),
    ],
)
def test_a_picture_needs_prompts_and_prompts_a_picture(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    given = [word.replace("{images}", str(ground.images)) for word in words]
    shown = saqsam("demo", "--out", tmp_path / "demo", *given)
    assert shown.code == 2
    assert said in shown.err
    assert not (tmp_path / "demo").exists()


def test_a_prompt_outside_of_the_picture_is_refused_before_anything_is_quantized(
    saqsam: Saqsam, ground: Ground, tmp_path: Path
) -> None:
    image, out = ground.images / "000001.png", tmp_path / "demo"
    shown = saqsam("demo", "--out", out, "--image", image, "--point", "9000,9000")
    assert shown.code != 0
    assert "9000" in shown.err
    assert not (out / "packed").exists()


def test_installed_photographs_lie_in_the_package_and_hold_their_prompts() -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the photographs: pip install 'saqsam[demo]'")
    found = installed_photographs()
    assert len(found) == len(PHOTOGRAPHS)
    for one in found:
        with one.path() as path, Image.open(path) as opened:
            width, height = opened.size
        boxes = np.array([asked.box for asked in one.objects if asked.box is not None])
        clicks = np.array([[asked.click] for asked in one.objects if asked.click is not None])
        assert len(boxes) + len(clicks) == len(one.objects)
        assert checked_prompts(width, height, boxes=boxes)[1] == 0, "no box reaches past its picture"
        checked_prompts(width, height, points=clicks)
