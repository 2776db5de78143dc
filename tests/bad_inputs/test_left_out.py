"""Bad entries that are left out on request: what stays is as if they were not in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.bad_inputs.annotations import HEIGHT, TRIANGLE, WIDTH, annotation
from transformers import SamModel

from saqsam.api import calibration_images, evaluate
from saqsam.datasets.bad_entries import BadEntries, left_out_lines
from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.errors import AnnotationError, ImageError, InputError, UsageError
from saqsam.prompts.from_dataset import prompts_for
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.tasks.oriented_set import read_oriented
from saqsam.tasks.semantic_maps import read_semantic

BAD: list[dict[str, Any]] = [
    {"segmentation": [TRIANGLE[:4]]},
    {"segmentation": []},
    {"bbox": [2, 3, 0, 0], "segmentation": []},
    {"bbox": [100, 3, 10, 10]},
    {"bbox": [2, 3, "x", 10]},
    {"image_id": 77},
    {"category_id": 77},
    {"area": "@NaN"},
]


def skipped(folder: Path, document: Any, **how: Any) -> tuple[InstanceSet, BadEntries]:
    path, bad = folder / "a.json", BadEntries("skip")
    path.write_text(json.dumps(document).replace('"@NaN"', "NaN"))
    return read_instances(path, folder, bad=bad, **how), bad


@pytest.mark.parametrize("changes", BAD)
def test_a_bad_annotation_is_left_out_and_listed(
    tmp_path: Path, document: dict[str, Any], changes: dict[str, Any]
) -> None:
    sound, _ = skipped(tmp_path, document)
    document["annotations"].insert(1, {**annotation(50), **changes})
    found, bad = skipped(tmp_path, document)
    for image in sound.images:
        ids = [one.id for one in sound.instances_of(image.id)]
        assert [one.id for one in found.instances_of(image.id)] == ids
    (left,) = bad.left_out
    assert (left.file, left.entry) == (str(tmp_path / "a.json"), "annotation 1 (id 50)")
    assert left.reason


def test_missing_pictures_are_left_out_with_their_annotations(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    (tmp_path / "one.png").unlink()
    found, bad = skipped(tmp_path, document)
    assert [image.file_name for image in found.images] == ["two.png"]
    assert [left.entry for left in bad.left_out] == ["image 0 (id 1)"]
    assert found.known_images == {1, 2}  # a detections file may still speak of it
    assert "3 annotations of images that are left out" in found.notes
    (tmp_path / "two.png").unlink()
    with pytest.raises(AnnotationError, match=r"no image can be used; .*one\.png.*1 more like it"):
        skipped(tmp_path, document)


def test_with_a_limit_only_the_pictures_asked_for_need_to_exist(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    document["images"].append({"id": 3, "file_name": "absent.png", "width": 4, "height": 4})
    document["annotations"].append(annotation(9, image_id=3, segmentation=[]))
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"absent\.png"):
        read_instances(tmp_path / "a.json", tmp_path, limit=3)
    found = read_instances(tmp_path / "a.json", tmp_path, limit=2)
    assert [image.id for image in found.images] == [1, 2]
    assert found.known_images == {1, 2, 3}
    document["images"].reverse()
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"absent\.png"):
        read_instances(tmp_path / "a.json", tmp_path, limit=1)
    found, bad = skipped(tmp_path, document, limit=1)  # the first one that is there
    assert [image.id for image in found.images] == [2]
    assert [left.entry for left in bad.left_out] == ["image 0 (id 3)"]


def test_nothing_is_measured_where_nothing_is_left(tmp_path: Path, document: dict[str, Any]) -> None:
    """A set of boxes alone has no masks to measure with."""
    dataset, _ = skipped(tmp_path, document)
    rows = [{"image_id": 1, "category_id": 4, "bbox": [2, 3, 0, 10], "score": 0.5}]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    with pytest.raises(AnnotationError, match=r"no detection can be used; detection 0: bbox .* has no area"):
        prompts_for(dataset, tmp_path / "found.json", bad=BadEntries("skip"))
    for entry in document["annotations"]:
        entry["segmentation"] = []
    with pytest.raises(
        AnnotationError, match=r"no annotation can be used; .*empty list \(and 3 more like it"
    ):
        skipped(tmp_path, document)


def test_a_faulty_category_always_stops(tmp_path: Path, document: dict[str, Any]) -> None:
    document["categories"].append({"id": 4, "name": "again"})
    with pytest.raises(AnnotationError, match="mend the list of categories"):
        skipped(tmp_path, document)


def test_bad_detections_are_left_out(tmp_path: Path, document: dict[str, Any]) -> None:
    dataset, bad = skipped(tmp_path, document)
    good = {"image_id": 1, "category_id": 4, "bbox": [2, 3, 10, 10], "score": 0.5}
    rows = [good, {**good, "bbox": [2, 3, 0, 10]}, {**good, "image_id": 9}, {**good, "score": "@NaN"}, good]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows).replace('"@NaN"', "NaN"))
    with pytest.raises(AnnotationError, match="NaN"):
        prompts_for(dataset, path)
    assert len(prompts_for(dataset, path, bad=bad)[1].prompts) == 2
    assert [left.entry for left in bad.left_out] == ["detection 1", "detection 2", "detection 3"]


def test_one_line_for_each_kind_however_many(tmp_path: Path, document: dict[str, Any]) -> None:
    document["annotations"] += [annotation(100 + i, segmentation=[TRIANGLE[:4]]) for i in range(30)]
    document["annotations"] += [annotation(500 + i, area=-1) for i in range(5)]
    _, bad = skipped(tmp_path, document)
    assert len(bad.left_out) == 35
    lines = left_out_lines(bad.left_out)
    assert len(lines) == 2
    assert "annotation 4 (id 100): polygon has 4 numbers" in lines[0]
    assert "29 more like it" in lines[0]


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected stop or skip"):
        BadEntries("ignore")


def test_figures_without_the_bad_are_those_of_a_file_without_them(
    tmp_path: Path, document: dict[str, Any], nano: SamModel
) -> None:
    """A damaged picture, a missing one and a bad outline, beside two sound pictures."""
    rng = np.random.default_rng(4)
    for name in ("one.png", "two.png"):
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "a.json").write_text(json.dumps(document))
    sam = Sam(nano, "nano")
    sound = evaluate(sam, tmp_path, tmp_path / "a.json").to_dict()
    whole = (tmp_path / "one.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:-200])
    for number, name in ((7, "torn.png"), (8, "absent.png")):
        document["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        document["annotations"].append(annotation(100 + number, image_id=number))
    document["annotations"].append(annotation(300, segmentation=[[1, 1, 2, 2]]))
    (tmp_path / "b.json").write_text(json.dumps(document))
    result = evaluate(sam, tmp_path, tmp_path / "b.json", on_error="skip").to_dict()
    assert [left["entry"] for left in result["left_out"]] == [
        "image 3 (id 8)",
        "annotation 6 (id 300)",
        "torn.png",
    ]
    for key in set(sound) - {"seconds", "left_out", "notes"}:
        assert result[key] == sound[key], key
    with pytest.raises(AnnotationError, match=r"absent\.png"):
        evaluate(sam, tmp_path, tmp_path / "b.json")


def test_calibration_needs_boxes_alone(tmp_path: Path, document: dict[str, Any]) -> None:
    recipe = load_recipe("rtn-w8a8", settings=("calibration.images=2",))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    expected = [image.prompts.boxes.tolist() for image in calibration_images(recipe, tmp_path, path)]
    del document["categories"]
    for entry in document["annotations"]:
        entry["segmentation"] = [] if entry["id"] % 2 else None
        del entry["category_id"]
    path.write_text(json.dumps(document))
    found = [image.prompts.boxes.tolist() for image in calibration_images(recipe, tmp_path, path)]
    assert found == expected
    with pytest.raises(AnnotationError, match="segmentation"):
        calibration_images(recipe, tmp_path, path, "points")
    rows = [{"image_id": 1, "category_id": 99, "bbox": [2, 3, 10, 10], "score": 0.5}]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    del document["annotations"]
    path.write_text(json.dumps(document))
    (one,) = calibration_images(recipe, tmp_path, path, tmp_path / "found.json")
    assert one.prompts.boxes.tolist() == [[2, 3, 12, 13]]


def test_calibration_draws_another_picture_for_one_that_cannot_be_read(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    recipe = load_recipe("rtn-w8a8", settings=("calibration.images=1",))
    (tmp_path / "a.json").write_text(json.dumps(document))
    (chosen,) = calibration_images(recipe, tmp_path, tmp_path / "a.json")
    chosen.path.write_bytes(b"torn")
    bad = BadEntries("skip")
    (other,) = calibration_images(recipe, tmp_path, tmp_path / "a.json", on_error=bad)
    assert other.path != chosen.path
    assert [left.entry for left in bad.left_out] == [chosen.path.name]
    other.path.write_bytes(b"torn")
    with pytest.raises(InputError, match="no image could be used"):
        calibration_images(recipe, tmp_path, tmp_path / "a.json", on_error="skip")
    Image.new("RGB", (WIDTH, HEIGHT)).save(other.path)  # without annotations, by a grid of clicks, as well
    for chance in range(3):
        seeded = load_recipe("rtn-w8a8", settings=("calibration.images=1", f"calibration.seed={chance}"))
        bad = BadEntries("skip")
        assert [one.path for one in calibration_images(seeded, tmp_path, on_error=bad)] == [other.path]
        assert {left.entry for left in bad.left_out} <= {chosen.path.name}
    with pytest.raises(ImageError, match="not an image"):
        calibration_images(load_recipe("rtn-w8a8"), tmp_path)


def test_label_files_and_maps_follow_the_same_policy(tmp_path: Path) -> None:
    labels, images = tmp_path / "labels", tmp_path / "images"
    labels.mkdir()
    images.mkdir()
    good = "1 2 11 2 11 7 1 7 plane 0"
    for number in range(1, 5):
        Image.new("RGB", (20, 20)).save(images / f"{number}.png")
        (labels / f"{number}.txt").write_text(f"{good}\n")
        Image.new("L", (20, 20)).save(labels / f"{number}.png")
    (labels / "1.txt").unlink()
    (labels / "1.png").unlink()
    (labels / "2.txt").write_text(f"{good}\n1 2 3\n{good.replace('plane', 'plame')}\n")
    (images / "3.png").write_bytes(b"torn")
    bad = BadEntries("skip")
    found = read_oriented(labels, images, bad=bad)
    assert [image.id for image in found.listing.images] == [2, 4]
    assert [len(found.objects[key]) for key in (2, 4)] == [1, 1]
    assert [left.entry for left in bad.left_out] == ["1.txt", "3.png", "line 2", "line 3"]
    assert len(read_oriented(labels, images, limit=1, bad=BadEntries("skip")).listing) == 1
    with pytest.raises(AnnotationError, match=r"1\.txt"):
        read_oriented(labels, images, limit=1)
    maps = BadEntries("skip")
    assert [image.id for image in read_semantic(labels, images, bad=maps).images] == [2, 3, 4]
    assert [left.entry for left in maps.left_out] == ["1.png"]
    with pytest.raises(UsageError, match=r"1\.png"):
        read_semantic(labels, images)
