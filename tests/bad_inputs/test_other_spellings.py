"""What real annotation files write otherwise than COCO does, where only one thing can be meant."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.bad_inputs.annotations import HEIGHT, TRIANGLE, WIDTH, annotation, read, refused

from saqsam.datasets.coco import read_instances
from saqsam.datasets.fields import LARGEST_ID
from saqsam.errors import AnnotationError
from saqsam.prompts.from_dataset import prompts_for
from saqsam.tasks.oriented_set import read_oriented

CORNERS = [[2, 3], [12, 3], [12, 13]]


@pytest.mark.parametrize(
    "write", [float, str, "{:06}".format, "{}.0".format], ids=("float", "text", "zeros", "point")
)
def test_ids_that_a_table_library_wrote(
    tmp_path: Path, document: dict[str, Any], write: Callable[[int], Any]
) -> None:
    expected = read(tmp_path, document)
    changed = copy.deepcopy(document)
    for noun in ("images", "categories", "annotations"):
        for entry in changed[noun]:
            for key in entry.keys() & {"id", "image_id", "category_id", "width", "height", "iscrowd"}:
                entry[key] = write(entry[key])
    found = read(tmp_path, changed)
    assert (found.images, found.categories) == (expected.images, expected.categories)
    for image in found.images:
        ours, theirs = found.instances_of(image.id), expected.instances_of(image.id)
        assert [(a.id, a.category_id, a.iscrowd) for a in ours] == [
            (a.id, a.category_id, a.iscrowd) for a in theirs
        ]
    assert any("ids written as text" in note for note in found.notes)
    rows = [{"image_id": write(1), "category_id": write(4), "bbox": [2, 3, 4, 5], "score": 1}]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert list(prompts_for(found, tmp_path / "found.json")) == [1]


def test_two_spellings_of_one_id_are_one_id(tmp_path: Path, document: dict[str, Any]) -> None:
    document["annotations"].append(annotation(1) | {"id": "0001"})
    assert "used by an earlier annotation" in refused(tmp_path, document)


def test_a_null_iscrowd_is_no_crowd(tmp_path: Path, document: dict[str, Any]) -> None:
    document["annotations"][0]["iscrowd"] = None
    found = read(tmp_path, document)
    assert not found.instances_of(1)[0].iscrowd
    assert found.notes == ("1 annotations whose iscrowd is null: taken as 0",)


@pytest.mark.parametrize("box", [[-2, 3, 10, 10], [33, 25, 9, 7], [-2, -2, 44, 34]])
def test_boxes_a_pixel_or_two_outside(tmp_path: Path, document: dict[str, Any], box: list[float]) -> None:
    document["annotations"] = [annotation(1, bbox=box)]
    found = read(tmp_path, document)
    x, y, width, height = box
    assert found.instances_of(1)[0].box_xyxy == (x, y, x + width, y + height)
    assert any("reach past their image" in note for note in found.notes)
    assert prompts_for(found, "boxes")[1].clipped == 1


@pytest.mark.parametrize(
    ("outline", "polygons"),
    [
        (TRIANGLE, [TRIANGLE]),
        ([[TRIANGLE]], [TRIANGLE]),
        ([[TRIANGLE, TRIANGLE]], [TRIANGLE, TRIANGLE]),
        ([[TRIANGLE], [TRIANGLE]], [TRIANGLE, TRIANGLE]),
        (CORNERS, [TRIANGLE]),
        ([CORNERS], [TRIANGLE]),
        ([CORNERS, CORNERS], [TRIANGLE, TRIANGLE]),
        ([[-2, 3, 12, 3, 12, 13]], [[-2, 3, 12, 3, 12, 13]]),
    ],
)
def test_polygons_with_brackets_too_few_or_too_many(
    tmp_path: Path, document: dict[str, Any], outline: Any, polygons: Any
) -> None:
    document["annotations"] = [annotation(1, segmentation=polygons), annotation(2, segmentation=outline)]
    one, two = read(tmp_path, document).instances_of(1)
    assert np.array_equal(one.mask(), two.mask())
    assert one.mask().any()


def names(tmp_path: Path, document: dict[str, Any], name: Any) -> str:
    """Which file a name is taken for."""
    document["images"][1]["file_name"] = name
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return read_instances(path, tmp_path / "images").images[1].file_name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/two.png", "two.png"),
        ("images\\two.png", "two.png"),
        ("data\\images\\two.png", "two.png"),
        ("./two.png", "two.png"),
        ("TWO.PNG", "two.png"),
        ("sub\\deep.png", "sub/deep.png"),
        ("deep.png", "sub/deep.png"),
        ("images/sub/deep.PNG", "sub/deep.png"),
        ("u\u0308ber.png", "\u00fcber.png"),
    ],
)
def test_names_that_one_file_fits(tmp_path: Path, document: dict[str, Any], name: str, file: str) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for one in ("one.png", "two.png", "sub/deep.png", "\u00fcber.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / one)
    assert names(tmp_path, document, name) == file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three.png", "'three.jpg' is there: if it is meant, write that name"),
        ("Two.png", "means 2 files in .*'TWO.png', 'two.png'; write which one"),
        ("other/two.png", "written"),
        ("deep.png", "means 2 files"),
        ("val/deep.png", "'sub/deep.png' is there"),
        ("four.png", "add it, or give the folder that holds it"),
        ("C:\\data\\two.jpg", "leaves the image folder"),
        ("/data/three.jpg", "leaves the image folder.*'three.jpg' is there"),
        ("images/one.png", "'one.png', as does 'one.png' of an earlier image"),
    ],
)
def test_names_that_no_file_or_several_fit(
    tmp_path: Path, document: dict[str, Any], name: str, words: str
) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "too").mkdir()
    for one in ("one.png", "two.png", "TWO.png", "three.jpg", "sub/deep.png", "too/deep.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / one)
    if words == "written":  # both end in two.png, and the two files differ in capitals only
        words = "means 2 files"
    with pytest.raises(AnnotationError, match=words):
        names(tmp_path, document, name)


def test_lvis_names_its_images_by_url(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "two.png").rename(tmp_path / "train2017" / "two.png")
    for entry in document["images"]:
        entry["coco_url"] = f"http://images.cocodataset.org/train2017/{entry.pop('file_name')}"
    found = read(tmp_path, document)
    assert [image.file_name for image in found.images] == ["one.png", "train2017/two.png"]
    assert any("coco_url" in note for note in found.notes)
    document["images"][0]["coco_url"] = "http://[/..%2f..%2fetc%2fpasswd"
    assert "leaves the image folder" in refused(tmp_path, document)


@pytest.mark.parametrize("largest", [6, LARGEST_ID])
def test_ids_are_not_renumbered_past_the_largest(
    tmp_path: Path, document: dict[str, Any], largest: int
) -> None:
    document["annotations"].append(annotation(largest))
    document["annotations"].append(annotation(0))
    ids = [one.id for one in read(tmp_path, document).instances_of(1)]
    assert len(set(ids)) == len(ids)
    assert all(1 <= one <= LARGEST_ID for one in ids)
    assert ids[-1] == (7 if largest == 6 else 5)


def test_a_renumbered_annotation_keeps_its_rotated_box(tmp_path: Path, document: dict[str, Any]) -> None:
    corners = [5.0, 1.0, 9.0, 5.0, 5.0, 9.0, 1.0, 5.0]
    document["annotations"] = [annotation(0, rotated_box=corners), annotation(2, difficult=1)]
    (tmp_path / "a.json").write_text(json.dumps(document))
    one, two = read_oriented(tmp_path / "a.json", tmp_path).objects[1]
    assert one.corners.ravel().tolist() == corners
    assert (one.difficult, two.difficult) == (False, True)


def test_the_stated_size_of_a_large_picture_is_held_against_the_file(
    tmp_path: Path, document: dict[str, Any], bounded: Callable[..., AbstractContextManager[None]]
) -> None:
    document["images"][1].update(width=9_000, height=9_000)
    document["annotations"] = [annotation(i + 1, image_id=2, area=None, bbox=None) for i in range(50)]
    with bounded(megabytes=60):
        assert "9000, but the file has 40 x 30 pixels" in refused(tmp_path, document)
    Image.new("1", (6_000, 4_000)).save(tmp_path / "two.png")
    document["images"][1].update(width=4_000, height=6_000)  # displayed upright, as EXIF may ask
    assert len(read(tmp_path, document)) == 2


@pytest.mark.parametrize("objects", [1, 250])
def test_polygons_take_memory_in_proportion_to_the_file(
    tmp_path: Path,
    document: dict[str, Any],
    bounded: Callable[..., AbstractContextManager[None]],
    objects: int,
) -> None:
    """Zigzags across a picture: two kilobytes of text are a million pixels of edges to draw."""
    side = 3_900
    document["images"][0].update(width=side, height=side)
    zigzag = [0, 0, side, side, 0, 1, side, side - 1]
    document["annotations"] = [annotation(i + 1, segmentation=[zigzag * 60]) for i in range(objects)]
    with bounded(megabytes=100):
        if objects == 1:
            assert read(tmp_path, document).instances_of(1)[0].segmentation["counts"]
        else:
            assert "too long for its size" in refused(tmp_path, document)
    document["annotations"] = [annotation(1, segmentation=[zigzag * 65])]
    with bounded(megabytes=100):
        assert "pixels long, the limit is 1,000,000" in refused(tmp_path, document)
