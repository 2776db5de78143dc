"""``saqsam detect`` from the command line: its file prompts a SAM, and it says what it left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.detectors.conftest import read_results

from saqsam.datasets.coco import read_instances
from saqsam.datasets.listing import ListedImage, from_annotations, from_folder
from saqsam.detectors.coco_names import COCO_NAMES, category_ids
from saqsam.detectors.detections import Detections
from saqsam.detectors.run import detect_images, write_detections
from saqsam.errors import NumericalError, UsageError
from saqsam.prompts.detections import read_detections
from saqsam.prompts.from_dataset import prompts_for

Command = Callable[..., tuple[int, str, str]]


class FixedDetector:
    """Answers with given boxes on every image."""

    name = "fixed"
    class_names = COCO_NAMES

    def __init__(self, boxes: list[list[float]], scores: list[float], labels: list[int]) -> None:
        self.found = Detections(
            torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)
        )

    def detect(self, pixels: np.ndarray) -> Detections:
        return self.found


def small_image(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path)
    return path


def test_what_is_written_is_accepted_as_prompts(scenes: Path, tmp_path: Path) -> None:
    dataset = read_instances(scenes / "instances.json", scenes / "images")
    boxes = [
        [10.00049, 5.0, 40.25, 60.0],
        [-20.0, -20.0, 30.0, 30.0],  # reaches past the image: kept as it is
        [-20.0, 3.0, -1.0, 9.0],  # outside
        [200.0, 3.0, 220.0, 9.0],  # outside
        [5.0, 5.0, 5.0002, 9.0],  # no width after rounding
        [127.9999, 5.0, 140.0, 9.0],  # nothing left of it once rounded to 128
    ]
    detector = FixedDetector(boxes, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0, 79, 0, 0, 0, 0])
    categories = category_ids(COCO_NAMES, dataset.categories, "x")
    run = detect_images(detector, from_annotations(dataset), categories)
    assert (run.images, run.without_area, len(run.entries)) == (4, 16, 8)
    write_detections(tmp_path / "d.json", run)
    first, second = read_results(tmp_path / "d.json")[:2]
    assert first == {"image_id": 1, "category_id": 90, "bbox": [-20.0, -20.0, 50.0, 50.0], "score": 0.3}
    assert second == {"image_id": 1, "category_id": 1, "bbox": [10.0, 5.0, 30.25, 55.0], "score": 0.2}
    assert len(read_detections(tmp_path / "d.json", dataset)) == 4
    assert len(prompts_for(dataset, tmp_path / "d.json")[1].prompts) == 2


def test_threshold_top_k_and_classes_without_category() -> None:
    detector = FixedDetector([[1.0, 1, 9, 9]] * 4, [0.9, 0.8, 0.7, 0.1], [0, 1, 2, 2])
    run = detect_images(
        detector, [_InMemory(5, Path("a.png"))], [11, None, 13], top_k=2, score_threshold=0.05
    )
    assert [(one["category_id"], one["score"]) for one in run.entries] == [(11, 0.9), (13, 0.7)]
    assert run.without_category == 1


class _InMemory(ListedImage):
    def pixels(self) -> np.ndarray:
        return np.zeros((20, 30, 3), np.uint8)


def test_a_detector_that_answers_nan_stops_the_run() -> None:
    detector = FixedDetector([[1.0, 1, float("nan"), 9]], [0.9], [0])
    with pytest.raises(NumericalError, match=r"fixed: 1 boxes of a\.png are NaN"):
        detect_images(detector, [_InMemory(1, Path("a.png"))], [1] * 80)


def test_an_empty_result_is_a_file_too(tmp_path: Path) -> None:
    run = detect_images(FixedDetector([], [], []), [_InMemory(1, Path("a.png"))], [1] * 80)
    write_detections(tmp_path / "none.json", run)
    assert read_results(tmp_path / "none.json") == []


def test_numbers_in_names_are_ids(tmp_path: Path) -> None:
    for name in ("000000000139.png", "12.png", "notes.txt"):
        small_image(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("x")
    assert [(image.id, image.path.name) for image in from_folder(tmp_path)] == [
        (12, "12.png"),
        (139, "000000000139.png"),
    ]


def test_other_names_are_counted(tmp_path: Path) -> None:
    for name in ("b.png", "007.png", "7.png"):
        small_image(tmp_path / name)
    assert [(image.id, image.path.name) for image in from_folder(tmp_path)] == [
        (1, "007.png"),
        (2, "7.png"),
        (3, "b.png"),
    ]


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        from_folder(tmp_path)


def test_unknown_detectors_and_missing_weights(saqsam: Command, scenes: Path, tmp_path: Path) -> None:
    def message(*words: object) -> str:
        code, _, err = saqsam("detect", scenes / "images", "--out", tmp_path / "d.json", *words)
        assert code == 2
        return err

    assert "no such detector" in message("--detector", "yolox-xxl")
    assert "leave this option out" in message("--detector", "hf:x", "--weights", "y.pth")
    assert "Missing option '--detector'" in message()
    assert not (tmp_path / "d.json").exists()


def test_files_and_folders_are_checked_first(saqsam: Command, scenes: Path, tmp_path: Path) -> None:
    out = ("--detector", "hf:nowhere/none", "--out", tmp_path / "d.json")
    code, _, err = saqsam("detect", tmp_path / "absent", *out)
    assert code == 2
    assert "there is no such file or directory" in err
    code, _, err = saqsam("detect", scenes / "images", *out, "--annotations", tmp_path / "absent.json")
    assert code == 2
    assert "--annotations" in err
    (tmp_path / "d.json").write_text("[]")
    code, _, err = saqsam("detect", scenes / "images", *out)
    assert code == 2
    assert "--force" in err


def test_bad_images_are_listed_and_the_rest_is_written(
    saqsam: Command, tmp_path: Path, detr_directory: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    small_image(folder / "1.png")
    small_image(folder / "2.png")
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder / "4.png").write_bytes(b"")
    out = tmp_path / "d.json"
    code, text, err = saqsam("detect", folder, "--detector", f"hf:{detr_directory}", "--out", out, "--json")
    assert code == 3
    assert "2 of 4 images could not be read" in err
    assert str(folder / "3.png") in err
    assert "the file is empty" in err
    report = json.loads(text)
    assert report["images"] == 2
    assert [Path(one["file"]).name for one in report["unreadable"]] == ["3.png", "4.png"]
    assert {one["image_id"] for one in read_results(out)} == {1, 2}


def test_boxes_are_in_the_frame_that_is_said(saqsam: Command, tmp_path: Path, detr_directory: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 3
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "1.png"
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(image, exif=tags)
    entry = {"id": 1, "file_name": "1.png", "width": 40, "height": 30}
    categories = [{"id": key, "name": name} for key, name in enumerate(COCO_NAMES)]
    truth, out = tmp_path / "a.json", tmp_path / "d.json"
    truth.write_text(json.dumps({"images": [entry], "categories": categories}))
    words = ["detect", tmp_path / "images", "--detector", f"hf:{detr_directory}", "--out", out, "--json"]
    boxes = {}
    for exif in ("auto", "displayed", "stored"):
        code, text, err = saqsam(*words, "--exif", exif, "--force")
        assert code == 0
        (note,) = json.loads(text)["notes"]
        assert f"coordinates count pixels as {exif.replace('auto', 'displayed')}" in note
        assert f"note: {note}" in err
        boxes[exif] = [one["bbox"] for one in read_results(out)]
    assert boxes["auto"] == boxes["displayed"] != boxes["stored"]
    code, _, err = saqsam(*words, "--annotations", truth, "--force")
    assert code == 3
    assert "pass --exif stored" in err
    code, _, _ = saqsam(*words, "--annotations", truth, "--exif", "stored", "--force")
    assert code == 0


def test_no_readable_image_writes_nothing(saqsam: Command, tmp_path: Path, detr_directory: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    out = tmp_path / "d.json"
    code, _, err = saqsam("detect", tmp_path, "--detector", f"hf:{detr_directory}", "--out", out)
    assert code == 3
    assert "nothing was written" in err
    assert not out.exists()


def test_pictures_that_are_missing_are_left_out_on_request(
    saqsam: Command, scenes: Path, tmp_path: Path, detr_directory: Path
) -> None:
    document = json.loads((scenes / "instances.json").read_text())
    document["images"].insert(0, {"id": 90, "file_name": "absent.png", "width": 8, "height": 8})
    (tmp_path / "a.json").write_text(json.dumps(document))
    words = (
        "detect",
        scenes / "images",
        "--detector",
        f"hf:{detr_directory}",
        "--annotations",
        tmp_path / "a.json",
    )
    code, _, err = saqsam(*words, "--out", tmp_path / "d.json")
    assert code == 3
    assert "--on-error skip" in err
    code, text, _ = saqsam(*words, "--out", tmp_path / "d.json", "--limit", 2, "--on-error", "skip", "--json")
    assert code == 0
    found = json.loads(text)
    assert found["images"] == 2
    assert [left["entry"] for left in found["left_out"]] == ["image 0 (id 90)"]
