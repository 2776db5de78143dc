"""Rotated images in sets with bad entries and other spellings: both are settled, each note is said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saqsam.cli.app import run
from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.coco import read_instances
from saqsam.errors import AnnotationError
from saqsam.prompts.detections import read_detections
from saqsam.tasks.oriented_set import read_oriented
from saqsam.tasks.semantic_maps import open_semantic_image, read_semantic


def save(path: Path, height: int, width: int, orientation: int = 6) -> None:
    """A grey picture stored at that size, with a tag."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, exif=tags)


def test_label_files_and_maps_decide_without_what_is_left_out(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in (1, 2, 3):
        save(tmp_path / "images" / f"{number}.png", 30, 50)
        (tmp_path / "labels" / f"{number}.txt").write_text("2 30 20 30 20 48 2 48 ship 0\n")
        Image.fromarray(np.zeros((50, 30), np.uint8)).save(tmp_path / "labels" / f"{number}.png")
    (tmp_path / "images" / "1.png").write_bytes(b"torn")
    with (tmp_path / "labels" / "2.txt").open("a") as file:
        file.write("no object\n")
    (tmp_path / "labels" / "3.png").unlink()
    bad = BadEntries("skip")
    found = read_oriented(tmp_path / "labels", tmp_path / "images", bad=bad).listing
    assert [(one.id, one.height, one.width, one.apply_exif) for one in found.images] == [
        (2, 50, 30, True),
        (3, 50, 30, True),
    ]
    assert "2 rotated or mirrored images taken as displayed" in found.notes[0]
    assert [one.entry for one in bad.left_out] == ["1.png", "line 2"]
    maps = read_semantic(tmp_path / "labels", tmp_path / "images", bad=BadEntries("skip"))
    assert [image.id for image in maps.images] == [1, 2]
    assert open_semantic_image(maps.images[1]).shape[:2] == (50, 30)


@pytest.fixture
def turned(scene_directory: Path, tmp_path: Path) -> Path:
    """The generated scenes with tags that nothing decides, ids as text, and an annotation off its image."""
    document: dict[str, Any] = json.loads((scene_directory / "instances.json").read_text())
    squares = [one for one in document["images"] if one["width"] == one["height"]]
    kept = {one["id"] for one in squares}
    things = [one for one in document["annotations"] if one["image_id"] in kept]
    (tmp_path / "images").mkdir()
    for entry in squares:
        source = scene_directory / "images" / entry["file_name"]
        tags = Image.Exif()
        tags[0x0112] = 3
        Image.open(source).convert("RGB").save(tmp_path / "images" / entry["file_name"], exif=tags)
    rows = [{key: one[key] for key in ("image_id", "category_id", "bbox")} for one in things]
    rows = [{**row, "image_id": str(row["image_id"]), "score": 0.5} for row in rows]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    things[0] = {**things[0], "image_id": str(things[0]["image_id"])}
    things.append({**things[-1], "id": 990, "bbox": [9000, 1, 2, 2]})
    (tmp_path / "a.json").write_text(json.dumps({**document, "images": squares, "annotations": things}))
    return tmp_path


def test_commands_do_both_and_say_each_note_once(turned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [
        "--images",
        turned / "images",
        "--annotations",
        turned / "a.json",
        "--prompts",
        turned / "boxes.json",
    ]
    how = ["--on-error", "skip", "--exif", "stored"]
    recipe = ["--recipe", "rtn", "--set", "calibration.images=1"]
    verbs: list[list[Any]] = [
        ["evaluate", "nano", *data],
        ["evaluate", "nano", *data, "--task", "oriented"],
        ["quantize", "nano", *data, *recipe, "--out", turned / "q.safetensors", "--force"],
    ]
    for words in verbs:
        assert run([str(word) for word in (*words, *how, "--json")]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert run([str(word) for word in (*words, *how)]) == 0
        captured = capsys.readouterr()
        assert sum("ids written as text" in note for note in notes) == 1
        assert sum("taken as stored, as asked" in note for note in notes) == 1
        for note in notes:
            assert captured.out.count(f"note: {note}\n") == captured.err.count(f"note: {note}\n") == 1
        assert captured.out.count("note: ") == len(notes)
        assert ("left out 1 bad entries" in captured.out) == (words[0] == "evaluate")
    dry: list[Any] = ["quantize", "nano", *data, *recipe, "--dry-run", "--on-error", "skip"]
    assert run([str(word) for word in dry]) == 3
    assert "pass --exif stored" in capsys.readouterr().err
    assert run([str(word) for word in (*dry, "--exif", "displayed")]) == 0


def test_ids_that_all_look_shifted_are_said_where_bad_entries_are_left_out(
    tmp_path: Path, scene_directory: Path
) -> None:
    dataset = read_instances(scene_directory / "instances.json", scene_directory / "images")
    rows = [
        {"image_id": key + 1, "category_id": min(dataset.categories), "bbox": [1, 2, 30, 40], "score": 0.5}
        for key in sorted(dataset.known_images)
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(AnnotationError, match="every image_id would be known if it were one less"):
        read_detections(tmp_path / "d.json", dataset)
    bad = BadEntries("skip")
    assert read_detections(tmp_path / "d.json", dataset, bad=bad)
    assert any("every image_id would be known if it were one less" in note for note in bad.notes)
