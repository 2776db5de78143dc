"""``saqsam reproduce``: rows as published, what they need, and one repeated end to end on tiny files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.detectors.conftest import awake
from tests.detectors.test_yolox import SMALL, write_file

from saqsam.detectors import yolox as yolox_module
from saqsam.detectors.registry import detector_names
from saqsam.detectors.yolox_network import Yolox
from saqsam.recipe import load_recipe
from saqsam.reproduce.files import DETECTOR_FILES, SAM_FILES
from saqsam.reproduce.rows import FAULTY, FLOAT, PROMPT_SAM, TRUTH, find_row, matching, paper_rows

Command = Callable[..., tuple[int, str, str]]


def test_figures_as_published() -> None:
    rows = paper_rows()
    for name, figure in {
        "yolox-sam-b-w4a4": 30.3,
        "yolox-sam-h-w4a4": 39.9,
        "yolox-sam-b-ptq4sam-l-w4a4": 18.4,
        "dino-sam-b-float": 44.5,
        "dino-sam-b-w4a4": 33.8,
        "dino-sam-l-w6a6": 48.3,
        "dino-sam-b-saq-sam-star-w4a4": 3.5,
        "dino-sam-h-qdrop-w4a4": 41.7,
        "h-detr-sam-b-float": 38.2,
        "h-detr-swin-l-sam-h-float": 46.8,
    }.items():
        assert rows[name].published == figure
    assert rows["faster-rcnn-sam-b-w4a4"].published is None


def test_every_row_can_be_run_and_says_how_it_differs() -> None:
    for row in paper_rows().values():
        assert row.detector == TRUTH or row.detector in detector_names()
        assert row.detector == TRUTH or row.detector in DETECTOR_FILES
        assert row.size in SAM_FILES
        assert row.notes
        assert bool(row.source) == (row.published is not None)
        if row.method != FLOAT:
            recipe = load_recipe(row.method, bits=row.bits, settings=row.settings)
            assert recipe.calibration.images == 32
            learned = recipe.reconstruct.encoder != "none"
            # The fault is in published figures of reconstruction, and in no others.
            known = row.published is not None and not row.is_quoted and row.method != "ahcptq"
            assert (FAULTY in row.notes) == (learned and known)
            assert row.is_quoted == (row.detector == TRUTH)
    assert find_row("dino-sam-b-float").source == PROMPT_SAM


def test_rows_are_listed_and_nearest_ones_named(saqsam: Command) -> None:
    code, text, _ = saqsam("reproduce")
    assert code == 0
    assert "yolox-sam-b-w4a4" in text
    assert "not known" in text
    code, text, _ = saqsam("reproduce", "--json")
    assert {one["row"] for one in json.loads(text)["rows"]} == set(paper_rows())
    code, _, err = saqsam("reproduce", "yolo-sam-b-w4a4")
    assert code == 2
    assert "did you mean 'yolox-sam-b-w4a4'?" in err


def test_rows_are_filtered(saqsam: Command) -> None:
    rows = paper_rows().values()
    quoted = {row.name: row.published for row in matching(rows, "boxes", None, "saq-sam", None)}
    assert quoted == {
        "boxes-sam-b-w6a6": 53.3,
        "boxes-sam-b-w4a4": 39.3,
        "boxes-sam-l-w6a6": 58.7,
        "boxes-sam-l-w4a4": 48.5,
    }
    code, text, _ = saqsam("reproduce", "--size", "L", "--method", "ahcptq", "--json")
    assert code == 0
    assert {one["row"] for one in json.loads(text)["rows"]} == {
        "dino-sam-l-ahcptq-w4a4",
        "dino-sam-l-ahcptq-w6a6",
    }
    code, text, _ = saqsam("reproduce", "--detector", "boxes", "--bits", "w4a4")
    assert "39.3 (CAR-SAM)" in text
    code, _, err = saqsam("reproduce", "--method", "brecqq")
    assert code == 2
    assert "--method brecqq: no row that is left has it; give one of ahcptq, " in err
    code, _, err = saqsam("reproduce", "boxes-sam-b-float", "--size", "b")
    assert code == 2
    assert "leave boxes-sam-b-float or them out" in err


def test_a_row_with_boxes_of_the_ground_truth_needs_no_detector(
    saqsam: Command, coco: Path, tmp_path: Path
) -> None:
    shutil.copy(
        coco / "annotations" / "instances_val2017.json", coco / "annotations" / "instances_train2017.json"
    )
    words = ("--coco", coco, "--sam", "nano", "--out", tmp_path / "out", "--limit", 1)
    settings = ("--set", "reconstruct.encoder=none", "--set", "clip.method=none")
    settings = (*settings, "--set", "mixed.enabled=false")
    code, text, _ = saqsam("reproduce", "boxes-sam-b-best-closed-form-w4a4", *words, *settings, "--json")
    assert code == 0
    found = json.loads(text)
    assert found["published"] == 39.3
    assert found["result"]["prompts"] == "boxes"
    assert any("CAR-SAM's own method" in note for note in found["notes"])


def test_what_is_missing_is_listed_with_its_source(saqsam: Command, tmp_path: Path) -> None:
    places = ("--coco", tmp_path / "coco", "--weights", tmp_path / "ckpt", "--out", tmp_path / "out")
    code, text, err = saqsam("reproduce", "yolox-sam-b-w4a4", *places)
    assert code == 1
    assert "5 of 5 things that yolox-sam-b-w4a4 needs are missing" in err
    for part in (
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth",
        "zips/train2017.zip",
        "instances_val2017.json: missing",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_the_published_one_is_noticed(saqsam: Command, tmp_path: Path) -> None:
    weights = tmp_path / "ckpt"
    weights.mkdir()
    (weights / SAM_FILES["b"].name).write_bytes(b"x" * 1000)
    (weights / DETECTOR_FILES["dino-focal-l"].name).write_bytes(b"x" * 2000)
    places = ("--coco", tmp_path, "--weights", weights)
    code, text, err = saqsam("reproduce", "dino-sam-b-float", "--check", "--json", *places)
    assert code == 1
    assert "sha256 differs" in err
    sam, detector, *_ = json.loads(text)["needs"]
    assert (sam["size"], sam["verdict"]) == (1000, "sha256 differs")
    assert (detector["size"], detector["verdict"]) == (2000, "sha256 not known")


@pytest.fixture
def coco(scenes: Path, tmp_path: Path) -> Path:
    """A COCO directory: four scenes to evaluate on, the same as unlabelled calibration images."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    document = json.loads((scenes / "instances.json").read_text())
    for folder in ("train2017", "val2017"):
        (root / folder).mkdir()
    for image in document["images"]:
        name = f"{image['id']:012d}.jpg"
        with Image.open(scenes / "images" / image["file_name"]) as opened:
            opened.save(root / "val2017" / name, quality=95)
        shutil.copy(root / "val2017" / name, root / "train2017" / name)
        image["file_name"] = name
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def detector_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    network = awake(Yolox(SMALL), seed=5)
    for convolution in network.bbox_head.multi_level_conv_obj:
        convolution.bias.data.fill_(-4.7)
    # The command line knows the real sizes alone.
    monkeypatch.setattr(yolox_module, "YoloxSizes", lambda: SMALL)
    return write_file(network, tmp_path / "small-yolox.pth")


def test_a_row_from_boxes_to_figure(
    saqsam: Command, coco: Path, detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = (
        *("reproduce", "yolox-sam-b-ptq4sam-s-w4a4", "--coco", coco, "--sam", "nano", "--out", out),
        *("--detector-weights", detector_file, "--limit", 2, "--set", "calibration.prompts=4"),
    )
    code, text, err = saqsam(*words, "--json")
    assert code == 0
    assert "calibrating on 3 of 4 pictures" in err  # nothing was detected on one
    report = json.loads(text)
    assert report["published"] == 1.2
    assert 0 <= report["measured"] <= 100
    assert report["result"]["bits"] == "w4a4"
    assert report["result"]["images"] == 2
    assert report["result"]["instances"] > 0
    notes = " ".join(report["notes"])
    assert "nano was used in place of the published file" in notes
    assert "Only 2 images were evaluated" in notes
    calibration = json.loads((out / "calibration-32-seed-0.json").read_text())
    assert calibration["annotations"] == []  # no label is looked at
    assert {(one["width"], one["height"]) for one in calibration["images"]} == {(128, 96)}
    assert (out / "yolox-sam-b-ptq4sam-s-w4a4.safetensors").is_file()

    # A second call uses the boxes and the packed model again.
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    code, text, err = saqsam(*words)
    assert (code, err) == (0, "")
    assert "published" in text
    assert "BAQ" in text
    assert {path: path.stat().st_mtime_ns for path in made} == made

    # Not with another recipe, nor with another detector.
    code, _, err = saqsam(*words, "--set", "calibration.prompts=5")
    assert code == 2
    assert "results here were made with another recipe" in err
    torch.save({}, detector_file)
    code, _, err = saqsam(*words)
    assert code == 2
    assert "results here were made with another detector size" in err


def test_a_float_row_needs_no_training_images(
    saqsam: Command, coco: Path, detector_file: Path, tmp_path: Path
) -> None:
    shutil.rmtree(coco / "train2017")
    words = ("--coco", coco, "--sam", "nano", "--out", tmp_path / "out", "--detector-weights", detector_file)
    code, text, err = saqsam("reproduce", "yolox-sam-b-float", *words, "--limit", 1)
    assert (code, err) == (0, "")
    assert "37.0" in text
