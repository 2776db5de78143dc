"""``saqsam segment`` with masks, clicks on several objects, all masks and zoom; pictures that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import saqsam as sq

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam

BOXES = ("--box", "10,10,60,60", "--box", "40,20,90,80")


@pytest.fixture
def image(ground: Ground) -> Path:
    return ground.images / "000001.png"


def test_clicks_are_given_to_objects_by_number(saqsam: Saqsam, image: Path, tmp_path: Path) -> None:
    words = ("--point", "2:50,50", "--not-point", "2:80,30", "--point", "1:20,20")
    done = saqsam("segment", "nano", image, *words, "--json", "--out", tmp_path / "m.png")
    assert done.code == 0
    assert [Path(one["file"]).name for one in done.result["masks"]] == ["m-1.png", "m-2.png"]
    one = saqsam("segment", "nano", image, "--point", "20,20", "--json").result["masks"][0]
    assert one["area"] == done.result["masks"][0]["area"]
    with_boxes = saqsam("segment", "nano", image, *BOXES, "--not-point", "2:80,30", "--json").result
    plain = saqsam("segment", "nano", image, *BOXES, "--json").result
    assert with_boxes["masks"][0]["area"] == plain["masks"][0]["area"]
    assert with_boxes["masks"][1] != plain["masks"][1]


def test_logits_written_are_masks_read(saqsam: Saqsam, image: Path, tmp_path: Path) -> None:
    logits = tmp_path / "logits.npy"
    assert saqsam("segment", "nano", image, *BOXES, "--out", logits).code == 0
    assert np.load(logits, allow_pickle=False).shape == (2, 64, 64)
    refined = saqsam("segment", "nano", image, *BOXES, "--mask", logits, "--json")
    assert refined.code == 0
    alone = saqsam("segment", "nano", image, "--mask", logits, "--out", tmp_path / "m.png", "--json")
    assert [Path(one["file"]).name for one in alone.result["masks"]] == ["m-1.png", "m-2.png"]
    picture = ("--mask", tmp_path / "m-1.png", "--mask", tmp_path / "m-2.png")
    assert saqsam("segment", "nano", image, *BOXES, *picture).code == 0
    one_too_few = saqsam("segment", "nano", image, *BOXES, "--mask", tmp_path / "m-1.png")
    assert (one_too_few.code, one_too_few.err.count("\n")) == (3, 1)


def test_all_masks_are_written_and_counted(saqsam: Saqsam, image: Path, tmp_path: Path) -> None:
    words = ("segment", "nano", image, *BOXES, "--all-masks", "--out", tmp_path / "m.png")
    done = saqsam(*words, "--json").result
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"m-{one}-{mask}.png" for one in (1, 2) for mask in (1, 2, 3)
    ]
    for one in done["masks"]:
        assert int((np.array(Image.open(one["file"])) > 0).sum()) == one["area"]
    best = saqsam("segment", "nano", image, *BOXES, "--multimask-output", "--json").result["masks"]
    scores = [one["iou_score"] for one in done["masks"]]
    assert [one["iou_score"] for one in best] == [max(scores[:3]), max(scores[3:])]
    again = saqsam(*words)
    assert again.code == 2
    assert "exists" in again.err


def test_zoom_says_its_cost(saqsam: Saqsam, image: Path) -> None:
    done = saqsam("segment", "nano", image, *BOXES, "--zoom", "--clip-to-box")
    assert "2 boxes were answered on 2 crops: 2 encoder passes" in done.out
    assert saqsam("segment", "nano", image, *BOXES, "--json").result["encoder_passes"] == 1


def test_what_is_read_is_not_replaced(saqsam: Saqsam, ground: Ground, folder: Path, tmp_path: Path) -> None:
    image, model = folder / "000001.png", tmp_path / "model"
    sq.load(ground.packed).save_pretrained(model)
    before = {path: path.read_bytes() for path in (*folder.iterdir(), *model.iterdir(), ground.packed)}
    evaluate = ("evaluate", "nano", "--images", folder, "--annotations", ground.annotations)
    for words in (
        ("segment", "nano", image, *BOXES[:2], "--out", image, "--force"),
        ("segment", "nano", image, *BOXES[:2], "--overlay", folder / ".." / "images" / image.name, "--force"),
        (*ground.quantize(model, model / "saqsam.safetensors"), "--force"),
        (*ground.quantize(ground.packed, ground.packed), "--force"),
        (*evaluate, "--show-dir", folder),
    ):
        shown = saqsam(*words)
        assert (shown.code, shown.out) == (2, "")
        assert "is read by this command and would be replaced" in shown.err
    assert {path: path.read_bytes() for path in before} == before


def test_a_home_that_the_shell_leaves_as_it_is(
    saqsam: Saqsam, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = saqsam("segment", "nano", image, *BOXES[:2], "--out=~/m.png")
    assert shown.code == 0
    assert (tmp_path / "m.png").is_file()
    shown = saqsam("segment", "~nobody-of-this-name/m.pth", image, *BOXES[:2])
    assert shown.code == 2
    assert "write the whole path" in shown.err


def test_a_folder_and_a_set_zoom(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    words = ("segment", "nano", ground.images, "--detections", ground.detections, "--out")
    plain = saqsam(*words, tmp_path / "plain.json", "--json").result
    zoomed = saqsam(*words, tmp_path / "zoomed.json", "--zoom", "--json").result
    assert plain["encoder_passes"] == 3
    assert zoomed["encoder_passes"] > 3
    sharded = saqsam(*words, tmp_path / "run", "--zoom", "--json")
    assert sharded.code == 0
    rows = json.loads((tmp_path / "zoomed.json").read_text())
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == rows
    other = saqsam(*words, tmp_path / "run")
    assert other.code == 1, "shards of zoomed answers are not continued without zoom"
    measured = saqsam(
        *("evaluate", "nano", "--images", ground.images, "--annotations", ground.annotations),
        *("--zoom", "--clip-to-box", "--json"),
    ).result
    assert (measured["zoom"], measured["clip_to_box"]) == (True, True)
    assert measured["encoder_passes"] == zoomed["encoder_passes"]


def test_the_pixel_limit_holds_for_every_verb(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    image = ground.images / "000001.png"
    with Image.open(image) as opened:
        pixels = opened.width * opened.height
    refused = saqsam("segment", "nano", image, "--box", "1,1,30,30", "--max-pixels", pixels - 1)
    assert refused.code == 3
    assert f"raise --max-pixels to {pixels}" in refused.err
    taken = saqsam("segment", "nano", image, "--box", "1,1,30,30", "--max-pixels", pixels)
    assert taken.code == 0
    for words in (
        ("everything", "nano", image, "--out", tmp_path / "e.json"),
        ("evaluate", "nano", "--images", ground.images, "--annotations", ground.annotations),
        ground.quantize("nano", tmp_path / "q.safetensors"),
    ):
        assert "raise --max-pixels" in saqsam(*words, "--max-pixels", 99).err
    assert saqsam("segment", "nano", image, "--box", "1,1,30,30").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("https://example.org/a.png", "--box", "1,2,3,4"), "download it"),
        (("{pipe}", "--box", "1,2,3,4"), "pipe or a device"),
        (("/dev/null", "--box", "1,2,3,4"), "pipe or a device"),
        (("{image}", "--point", "1,1", "--zoom"), "--zoom is for box prompts"),
        (("{image}", *BOXES, "--point", "1,1"), "say which object"),
        (("{image}", *BOXES, "--point", "3:1,1"), "give each object a --box"),
        (("{image}", "--point", "1:1,1", "--point", "3:1,1"), "object 2 has no click"),
        (("{image}", "--point", "x:1,1"), "expected X,Y or N:X,Y"),
        (("{image}", "--point", "0:1,1"), "expected X,Y or N:X,Y"),
        (("{image}", "--mask", "{pipe}"), "pipe or a device"),
        (("{image}", "--box", "1,2,30,40", "--out", "a.gif"), "as .png"),
        (("{images}", "--detections", "{detections}", "--out", "a.json", "--all-masks"), "for one image"),
    ],
)
def test_usage_that_cannot_be(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    names = {
        "pipe": tmp_path / "pipe",
        "image": ground.images / "000001.png",
        "images": ground.images,
        "detections": ground.detections,
    }
    done = saqsam("segment", "nano", *(word.format(**names) for word in words))
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_everything_that_finds_nothing_says_what_to_try(saqsam: Saqsam, image: Path, tmp_path: Path) -> None:
    words = ("everything", "nano", image, "--points-per-side", 2, "--pred-iou-thresh")
    done = saqsam(*words, 1, "--out", tmp_path / "e.json")
    assert done.code == 0
    assert "try --pred-iou-thresh 0.8" in done.out
    percent = saqsam(*words, 88, "--out", tmp_path / "f.json")
    assert percent.code == 2
    assert "0.88 for 88 %" in percent.err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("compare", "a", "b", "--html"), "saqsam compare"),
        (("recipe", "show", "--set"), "saqsam recipe show"),
        (("--debug", "quantize", "--recipe"), "saqsam quantize"),
    ],
)
def test_an_option_without_its_value_points_to_its_own_help(
    saqsam: Saqsam, words: tuple[str, ...], command: str
) -> None:
    assert f"(see '{command} --help')" in saqsam(*words).err


def test_the_folder_of_task1_files_is_made(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    words = ("evaluate", "nano", "--task", "oriented", "--images", ground.images)
    words = (*words, "--annotations", ground.annotations, "--limit", "1", "--task1-dir")
    assert saqsam(*words, tmp_path / "a" / "b").code == 0
    assert list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    refused = saqsam(*words, tmp_path / "file" / "b")
    assert refused.code == 2
    assert "choose another" in refused.err


def test_a_ray_that_does_not_start_is_explained(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "no-scheme-of-ray://nowhere")
    words = ("segment", "nano", ground.images, "--detections", ground.detections)
    done = saqsam(*words, "--out", tmp_path / "run", "--on", "ray")
    assert done.code == 1
    assert "Ray did not start" in done.err
    assert "--on local" in done.err
