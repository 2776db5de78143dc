"""DOTA label files and folders, good and bad."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saqsam.errors import AnnotationError, UsageError
from saqsam.tasks.dota_labels import CLASSES, read_dota_labels
from saqsam.tasks.oriented_set import oriented_prompts, read_oriented

GOOD = "1 2 11 2 11 7 1 7 plane 0"


def test_a_label_file(tmp_path: Path) -> None:
    path = tmp_path / "P0001.txt"
    lines = ["\ufeffimagesource:GoogleEarth", "gsd:0.146", GOOD, "", "0.5 0 3 0 3 3 0 3 ship 1"]
    path.write_bytes("\r\n".join([*lines, "5 5 9 5 9 9 5 9 ship", ""]).encode())
    objects = read_dota_labels(path)
    assert [(one.category, one.difficult, one.line) for one in objects] == [
        ("plane", False, 3),
        ("ship", True, 5),
        ("ship", False, 6),
    ]
    np.testing.assert_array_equal(objects[0].polygon, [[1, 2], [11, 2], [11, 7], [1, 7]])


def test_an_empty_file_is_an_image_without_objects(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    assert read_dota_labels(tmp_path / "a.txt") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 2 11 2 11 7 1 7", "8 fields"),
        ("1 2 11 2 11 7 1 7 plane 0 extra", "11 fields"),
        ("1 2 11 2 11 seven 1 7 plane 0", "must be numbers"),
        ("1 2 11 2 11 nan 1 7 plane 0", "not a finite number"),
        ("1 2 11 2 11 1e300 1 7 plane 0", "not a finite number"),
        ("1 1 2 2 3 3 4 4 plane 0", "no area"),
        ("1 2 11 2 11 7 1 7 ../plane 0", "no class name"),
        ("1 2 11 2 11 7 1 7 plane 2", "difficult must be 0 or 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "P0001.txt"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(AnnotationError, match=words) as caught:
        read_dota_labels(path)
    assert str(path) in str(caught.value)
    assert "line 2:" in str(caught.value)


def test_every_bad_line_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n" * 30)
    with pytest.raises(AnnotationError, match="29 more like it"):
        read_dota_labels(tmp_path / "a.txt")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=80), st.text(alphabet="0123456789. -naife\n", max_size=80)))
def test_nothing_but_an_annotation_error_escapes(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "fuzz.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    objects = []
    with contextlib.suppress(AnnotationError):
        objects = read_dota_labels(path)
    for one in objects:
        assert one.polygon.shape == (4, 2)
        assert np.isfinite(one.polygon).all()


def test_unreadable_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_dota_labels(tmp_path / "none.txt")
    (tmp_path / "big.txt").write_text(GOOD)
    with pytest.raises(AnnotationError, match="longer than"):
        read_dota_labels(tmp_path / "big.txt", max_bytes=5)


def test_a_folder_and_a_json_of_the_same_scenes_agree(scene_directory: Path) -> None:
    folder = read_oriented(scene_directory / "labels", scene_directory / "images")
    json_set = read_oriented(scene_directory / "instances.json", scene_directory / "images")
    assert [image.id for image in folder.listing.images] == [image.id for image in json_set.listing.images]
    for key, expected in json_set.objects.items():
        found = folder.objects[key]
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.corners, other.corners)
            names = folder.listing.categories[one.category_id], json_set.listing.categories[other.category_id]
            assert names[0] == names[1]


def test_classes_of_dota_keep_their_order_and_typos_are_named(scene_directory: Path, tmp_path: Path) -> None:
    images, labels = scene_directory / "images", tmp_path / "labels"
    labels.mkdir()
    for path in images.iterdir():
        (labels / f"{path.stem}.txt").write_text(f"{GOOD}\n")
    assert tuple(read_oriented(labels, images).listing.categories.values()) == CLASSES
    (labels / "000002.txt").write_text(f"{GOOD}\n{GOOD.replace('plane', 'smal-vehicle')}\n")
    with pytest.raises(AnnotationError, match=r"000002.txt: line 2: .*did you mean small-vehicle"):
        read_oriented(labels, images)
    (labels / "000003.txt").unlink()
    with pytest.raises(AnnotationError, match=r"000003\.txt: there is no such label file"):
        read_oriented(labels, images)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rotated_box", [1, 2, 3], "eight finite numbers"),
        ("rotated_box", [1, 2, 3, 4, 5, 6, 7, "8"], "eight finite numbers"),
        ("difficult", 3, "difficult must be 0 or 1"),
    ],
)
def test_bad_fields_of_a_json_are_named(
    scene_directory: Path, tmp_path: Path, field: str, value: object, words: str
) -> None:
    document = json.loads((scene_directory / "instances.json").read_text())
    document["annotations"][1][field] = value
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=words) as caught:
        read_oriented(path, scene_directory / "images")
    assert f"annotation 1 (id {document['annotations'][1]['id']})" in str(caught.value)


def test_without_rotated_boxes_masks_give_them(scene_directory: Path, tmp_path: Path) -> None:
    document = json.loads((scene_directory / "instances.json").read_text())
    for one in document["annotations"]:
        del one["rotated_box"]
    document["annotations"][0]["difficult"] = 1
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    found = read_oriented(path, scene_directory / "images")
    expected = read_oriented(scene_directory / "instances.json", scene_directory / "images")
    for key, group in expected.objects.items():
        for one, other in zip(found.objects[key], group, strict=True):
            np.testing.assert_allclose(one.corners, other.corners, atol=1e-3)
    asked = oriented_prompts(found, "boxes")
    everything = oriented_prompts(expected, "boxes")
    assert (
        sum(len(one.prompts) for one in asked.values())
        == sum(len(one.prompts) for one in everything.values()) - 1
    )


def test_clicks_are_not_for_this_task(scene_directory: Path) -> None:
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images")
    with pytest.raises(UsageError, match="not points"):
        oriented_prompts(dataset, "points")
