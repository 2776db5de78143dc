"""Names and ids of categories, compared with COCO's own file where it is at hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saqsam.detectors.coco_names import (
    COCO_CATEGORIES,
    COCO_IDS,
    COCO_NAMES,
    category_ids,
    default_category_ids,
)
from saqsam.errors import UsageError


def test_eighty_names_between_id_1_and_90() -> None:
    assert len(COCO_NAMES) == len(COCO_IDS) == len(set(COCO_NAMES)) == 80
    assert (COCO_IDS[0], COCO_IDS[-1]) == (1, 90)
    assert sorted(set(range(1, 91)) - set(COCO_IDS)) == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_the_same_as_in_the_real_annotations(coco50: Any) -> None:
    listed = json.loads(coco50.annotations.read_text())["categories"]
    assert {one["id"]: one["name"] for one in listed} == dict(COCO_CATEGORIES)


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("aeroplane", "airplane"),
        ("motorbike", "motorcycle"),
        ("sofa", "couch"),
        ("pottedplant", "potted plant"),
        ("diningtable", "dining table"),
        ("tvmonitor", "tv"),
        ("Traffic_Light", "traffic light"),
        ("wine-glass", "wine glass"),
        (" hair  dryer ", "hair drier"),
    ],
)
def test_other_names_of_the_same_thing(spoken: str, name: str) -> None:
    wanted = COCO_IDS[COCO_NAMES.index(name)]
    assert category_ids([spoken], COCO_CATEGORIES, "x.json") == [wanted]
    assert default_category_ids([spoken, "N/A"]) == [wanted, None]


def test_a_data_set_with_its_own_words_and_ids() -> None:
    found = category_ids(["cat", "aeroplane", "N/A"], {7: "Airplane", 3: "star"}, "x.json")
    assert found == [None, 7, None]


def test_no_common_word_is_refused() -> None:
    with pytest.raises(UsageError, match=r"scenes\.json: none of its categories \(disc, ring\)"):
        category_ids(COCO_NAMES, {1: "disc", 2: "ring"}, "scenes.json")


def test_classes_that_are_not_cocos_are_counted_from_one() -> None:
    assert default_category_ids(["disc", "person", "N/A"]) == [1, 2, None]
