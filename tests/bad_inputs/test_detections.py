"""Detections files that break their own rules, and those that were made for another data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.errors import AnnotationError, PromptError
from saqsam.prompts.from_dataset import prompts_for

GOOD: dict[str, Any] = {"image_id": 5, "category_id": 4, "bbox": [2, 3, 10, 10], "score": 0.5}


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceSet:
    """Two images of 40 x 30 without objects."""
    for name in ("one.png", "two.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    document = {
        "images": [
            {"id": 5, "file_name": "one.png", "width": 40, "height": 30},
            {"id": 6, "file_name": "two.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 4, "name": "thing"}],
        "annotations": [],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    return read_instances(tmp_path / "instances.json", tmp_path)


def refused(dataset: InstanceSet, content: Any) -> str:
    path = dataset.path.with_name("found.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AnnotationError) as caught:
        prompts_for(dataset, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_id": 7}, "image_id 7 is not the id of any image of instances.json"),
        ({"image_id": "5a"}, "image_id '5a' is a string"),
        ({"image_id": 5.5}, "image_id 5.5 is not whole"),
        ({"image_id": [5]}, "image_id [5]"),
        ({"category_id": 1}, "category_id 1 is not the id of any category of instances.json"),
        ({"category_id": "thing"}, "category_id 'thing' is a string"),
        ({"category_id": {}}, "category_id {}"),
        ({"score": "0.5"}, "score '0.5' is not a finite number"),
        ({"score": None}, "score None is not a finite number"),
        ({"score": True}, "score True is not a finite number"),
        ({"score": 10**400}, "is not a finite number"),
        ({"bbox": [2, 3, 10]}, "four numbers"),
        ({"bbox": None}, "four numbers"),
        ({"bbox": "2 3 10 10"}, "four numbers"),
        ({"bbox": [2, 3, None, 10]}, "not a finite number"),
        ({"bbox": [2, 3, -1, 10]}, "inverted"),
        ({"bbox": [2, 3, 0, 10]}, "has no area"),
        ({"bbox": [2, 3, 10, 0]}, "has no area"),
        ({"bbox": [40, 3, 10, 10]}, "wholly outside the 40 x 30 image"),
        ({"bbox": [-10, 3, 10, 10]}, "wholly outside the 40 x 30 image"),
        ({"bbox": [2, 2**63, 10, 10]}, "wholly outside"),
        ({"bbox": [2, 3, 1e-12, 10]}, "has no area inside"),
    ],
)
def test_a_fault_of_one_detection_is_named(dataset: InstanceSet, changes: dict[str, Any], words: str) -> None:
    message = refused(dataset, [GOOD, {**GOOD, **changes}])
    assert "detection 1: " in message
    assert words in message


@pytest.mark.parametrize("key", GOOD)
def test_fields_that_are_missing(dataset: InstanceSet, key: str) -> None:
    row = {name: value for name, value in GOOD.items() if name != key}
    assert f"detection 0: field '{key}' is missing" in refused(dataset, [row])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("{}", "a list of detections expected"),
        ('"boxes"', "a list of detections expected"),
        ('{"annotations": {}}', "a list of detections expected"),
        ("[1]", "detection 0: 1 is not an object"),
        ("[[]]", "detection 0: [] is not an object"),
        ('[{"score": NaN}]', "the token NaN is not JSON"),
        ('[{"score": 1, "score": 2}]', "the key 'score' comes twice"),
        ("[{", "not valid JSON"),
        ("<html>", "web page"),
    ],
)
def test_text_that_is_no_list_of_detections(dataset: InstanceSet, content: str, words: str) -> None:
    assert words in refused(dataset, content)


def test_detections_of_another_data_set_name_the_first_entry_and_the_total(dataset: InstanceSet) -> None:
    message = refused(dataset, [{**GOOD, "image_id": 100 + i} for i in range(300)])
    assert "detection 0: image_id 100 is not the id of any image of instances.json" in message
    assert "(and 299 more like it)" in message


def test_faults_on_images_that_were_left_out_still_count(dataset: InstanceSet) -> None:
    """A broken entry says that the detector is broken, wherever it is."""
    assert "detection 0: score" in refused(dataset.first(1), [{**GOOD, "image_id": 6, "score": None}])


def test_a_file_that_is_not_there(dataset: InstanceSet) -> None:
    with pytest.raises(AnnotationError, match="no such file"):
        prompts_for(dataset, "boxs")


STRANGE = (None, True, -1, 0, 3, 2**63, 0.5, 1e300, 1e-320, "", "4", [], {}, [1, 2, 3, 4], [0, 0, 1e-9, 5])


def test_mutated_files_are_read_or_refused(dataset: InstanceSet) -> None:
    """What is read becomes prompts that the model can be asked."""
    rng = np.random.default_rng(3)
    path = dataset.path.with_name("found.json")
    accepted = 0
    for _ in range(1_000):
        rows: list[Any] = [json.loads(json.dumps(GOOD)) for _ in range(3)]
        row = rows[rng.integers(3)]
        key = list(row)[rng.integers(4)]
        if key == "bbox" and rng.random() < 0.8:
            spot = rng.integers(4)
            row[key][spot] = float(rng.normal() * 10.0 ** rng.integers(-8, 9)) + row[key][spot]
        else:
            row[key] = STRANGE[rng.integers(len(STRANGE))]
        path.write_text(json.dumps(rows))
        try:
            found = prompts_for(dataset, path)
        except AnnotationError:
            continue
        except PromptError as error:
            pytest.fail(f"{rows}: passed the reader, then: {error}")
        accepted += 1
        boxes = found[5].prompts.boxes
        assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert accepted > 100
