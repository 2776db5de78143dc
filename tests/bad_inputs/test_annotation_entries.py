"""Faults of single annotations: each is counted and named by its entry."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.bad_inputs.annotations import TRIANGLE, annotation, compressed, read, refused, square_mask

from saqsam.tasks.coco_ap import coco_truth


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "1a"}, "id '1a' is a string"),
        ({"id": "-1"}, "id '-1' is a string"),
        ({"id": "²"}, "id '²' is a string"),
        ({"id": 1.5}, "id 1.5 is not whole"),
        ({"id": 1e300}, "id 1e+300"),
        ({"id": "9" * 40}, "is a string"),
        ({"id": True}, "id True is a boolean"),
        ({"id": -1}, "must be an integer from 0"),
        ({"id": 2**60}, "2^53 - 1"),
        ({"id": 1}, "used by an earlier annotation"),
        ({"image_id": 77}, "image_id 77 is not the id of any image"),
        ({"image_id": "one"}, "image_id 'one' is a string"),
        ({"image_id": "77"}, "image_id 77 is not the id of any image"),
        ({"image_id": None}, "image_id None is null"),
        ({"category_id": 5}, "category_id 5 is not the id of any category"),
        ({"category_id": [4]}, "category_id [4]"),
        ({"area": -1}, "area -1 must be"),
        ({"area": "9"}, "area '9' must be"),
        ({"area": 1e999}, "Infinity"),
        ({"area": 10**400}, "must be a finite number"),
        ({"iscrowd": 2}, "iscrowd 2 must be 0 or 1"),
        ({"iscrowd": "no"}, "iscrowd 'no'"),
        ({"iscrowd": []}, "iscrowd []"),
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"bbox": [1, 2, -3, 4]}, "inverted"),
        ({"bbox": [1, 2, "3", 4]}, "not a finite number"),
        ({"bbox": [1, 2, 1e8, 4]}, "outside the 40 x 30 image"),
        ({"bbox": [-50, 2, 10, 4]}, "outside the 40 x 30 image"),
        ({"bbox": "1,2,3,4"}, "four numbers"),
        ({"segmentation": []}, "empty list"),
        ({"segmentation": None}, "neither polygons nor a run-length code"),
        ({"segmentation": "abc"}, "neither polygons nor"),
        ({"segmentation": [[]]}, "at least 6"),
        ({"segmentation": [TRIANGLE[:4]]}, "at least 6"),
        ({"segmentation": [[*TRIANGLE, 1]]}, "7 numbers, an odd count"),
        ({"segmentation": [[*TRIANGLE[:5], 1e8]]}, "coordinate y = 100000000.0 is far outside"),
        ({"segmentation": [[-1e8, *TRIANGLE[1:]]]}, "coordinate x = -100000000.0 is far outside"),
        ({"segmentation": [[*TRIANGLE[:5], "3"]]}, "'3' is not a finite number"),
        ({"segmentation": [[*TRIANGLE[:5], True]]}, "True is not a finite number"),
        ({"segmentation": [[*TRIANGLE[:5], 10**400]]}, "is not a finite number"),
        ({"segmentation": TRIANGLE[:4]}, "at least 6"),
        ({"segmentation": [TRIANGLE, 3]}, "where a polygon, a list of numbers, is expected"),
        ({"segmentation": [[[TRIANGLE]]]}, "write [[x0, y0, x1, y1, x2, y2, ...]]"),
        ({"segmentation": [[0, 0, 40, 30] * 60_000]}, "pixels long"),
        ({"segmentation": [TRIANGLE, {"size": [30, 40], "counts": [1200]}]}, "where a polygon"),
        ({"segmentation": {}}, "run-length size None"),
        ({"segmentation": {"size": [40, 30], "counts": [1200]}}, "not the image's [height, width]"),
        ({"segmentation": {"size": [100_000, 100_000], "counts": [10**10]}}, "not the image's"),
        (
            {"segmentation": {"size": [30, 40], "counts": [1199]}},
            "add up to 1199, but height x width is 1200",
        ),
        ({"segmentation": {"size": [30, 40], "counts": [2**70]}}, "add up to"),
        ({"segmentation": {"size": [30, 40], "counts": [-5, 1205]}}, "run length -5 is negative"),
        ({"segmentation": {"size": [30, 40], "counts": [1200.0]}}, "1200.0 is not an integer"),
        ({"segmentation": {"size": [30, 40], "counts": [None]}}, "None is not an integer"),
        ({"segmentation": {"size": [30, 40], "counts": []}}, "add up to 0"),
        ({"segmentation": {"size": [30, 40], "counts": None}}, "must be a string or a list"),
        ({"segmentation": {"size": [30, 40], "counts": ""}}, "damaged or truncated"),
        ({"segmentation": {"size": [30, 40], "counts": "0"}}, "add up to 0"),
        ({"segmentation": {"size": [30, 40], "counts": "PPPPPPPPPPPPPPPPPP"}}, "damaged or truncated"),
        ({"segmentation": {"size": [30, 40], "counts": "漢"}}, "damaged or truncated"),
    ],
)
def test_a_fault_of_one_annotation_is_named(
    tmp_path: Path, document: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    document["annotations"].append({**annotation(5), **changes})
    message = refused(tmp_path, document)
    assert words in message
    if "Infinity" not in words:
        assert "annotation 4" in message


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_truncated_run_lengths(tmp_path: Path, document: dict[str, Any], cut: int) -> None:
    code = document["annotations"][1]["segmentation"]
    code["counts"] = code["counts"][:-cut]
    message = refused(tmp_path, document)
    assert "annotation 1 (id 2)" in message
    assert "add up to" in message or "damaged" in message


@pytest.mark.parametrize("noun", ["images", "categories", "annotations"])
def test_fields_that_are_missing(tmp_path: Path, document: dict[str, Any], noun: str) -> None:
    optional = {"area", "iscrowd", "bbox"}
    for key in set(document[noun][0]) - optional:
        broken = copy.deepcopy(document)
        del broken[noun][0][key]
        assert f"field '{key}' is missing" in refused(tmp_path, broken)


def test_ids_that_come_twice(tmp_path: Path, document: dict[str, Any]) -> None:
    for noun, word in (("images", "image"), ("categories", "category"), ("annotations", "annotation")):
        broken = copy.deepcopy(document)
        broken[noun][1]["id"] = broken[noun][0]["id"]
        assert f"used by an earlier {word}" in refused(tmp_path, broken)


@pytest.mark.parametrize(("area", "noted"), [(1e12, 1), (1201, 1), (0.4, 1), (1200, 0), (1, 0)])
def test_areas_that_count_no_pixels_are_noted(
    tmp_path: Path, document: dict[str, Any], area: float, noted: int
) -> None:
    document["annotations"][0]["area"] = area
    notes = read(tmp_path, document).notes
    assert sum("area is below a pixel or above all pixels" in note for note in notes) == noted


def test_what_may_be_missing_is_supplied_and_noted(tmp_path: Path, document: dict[str, Any]) -> None:
    document["annotations"][1] = annotation(0, segmentation=compressed(square_mask()))
    for key in ("area", "bbox", "iscrowd"):
        del document["annotations"][1][key]
    found = read(tmp_path, document)
    one = found.instances_of(1)[1]
    assert one.id == 5  # 0 means "unmatched" to metric code, so the id moves past the largest
    assert one.area == 100
    assert one.box_xyxy == (2, 3, 12, 13)
    assert not one.iscrowd
    assert len(found.notes) == 3
    assert {entry["id"] for entry in coco_truth(found)["annotations"]} == {1, 3, 4, 5}
