"""Sets that break no rule and cannot be meant as they are: what is noted, and that good ones are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saqsam import api
from saqsam.cli.app import run
from saqsam.datasets.coco import read_instances
from saqsam.datasets.fields import shifted_ids
from saqsam.datasets.instances import InstanceSet
from saqsam.errors import AnnotationError
from saqsam.prompts.from_dataset import prompts_for
from saqsam.prompts.plausible import implausible
from saqsam.prompts.readings import ImageBoxes, better_reading
from saqsam.sam import Sam
from saqsam.tasks.semantic_notes import label_notes

Box = list[float]
Change = Callable[[Box, float, float], Box]


def rows(scene_set: InstanceSet, change: Change, category: Callable[[int], int]) -> list[dict[str, Any]]:
    """One detection for each object, its box and category changed."""
    found = []
    for image in scene_set.images:
        for one in scene_set.instances_of(image.id):
            x0, y0, x1, y1 = one.box_xyxy
            found.append(
                {
                    "image_id": image.id,
                    "category_id": category(one.category_id),
                    "bbox": change([x0, y0, x1 - x0, y1 - y0], image.width, image.height),
                    "score": 0.5,
                }
            )
    return found


def noted(dataset: InstanceSet, path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return "; ".join(implausible(dataset, prompts_for(dataset, path), path))


def as_it_is(box: Box, width: float, height: float) -> Box:
    return box


def same(key: int) -> int:
    return key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (as_it_is, ""),
        (lambda b, w, h: [b[0] - 0.4, b[1] + 0.3, b[2], b[3]], ""),
        (lambda b, w, h: [b[0], b[1], b[0] + b[2], b[1] + b[3]], "read as x0, y0, x1, y1 in pixels"),
        (lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h], "shares of the image's sides, 0..1"),
        (
            lambda b, w, h: [(b[0] + b[2] / 2) / w, (b[1] + b[3] / 2) / h, b[2] / w, b[3] / h],
            "read as centre x, centre y, width, height in shares",
        ),
        (lambda b, w, h: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]], "read as centre x, centre y, width"),
        (
            lambda b, w, h: [100 * b[0] / w, 100 * b[1] / h, 100 * b[2] / w, 100 * b[3] / h],
            "read as x, y, width, height in percent of its sides",
        ),
        (lambda b, w, h: [1.0, 1.0, 4.0, 4.0], "no detection meets any of 17 annotated objects"),
    ],
)
def test_boxes_that_are_meant_otherwise(
    scene_set: InstanceSet, tmp_path: Path, change: Change, words: str
) -> None:
    found = noted(scene_set, tmp_path / "d.json", rows(scene_set, change, same))
    assert words in found
    assert bool(words) == bool(found)


def test_boxes_of_the_image_as_the_model_sees_it() -> None:
    objects = np.array([[100.0, 200, 700, 900], [1200, 30, 2000, 500]])
    image = ImageBoxes((2048, 1365), objects / 2, np.zeros(2, int), objects, np.zeros(2, int))
    found = better_reading([image])
    assert found == ("x, y, width, height in pixels of the image resized to 1024", 1, 0)


def test_one_detection_that_lies_on_an_object_by_chance(scene_set: InstanceSet, tmp_path: Path) -> None:
    content = rows(scene_set, lambda b, w, h: [1.0, 1.0, 4.0, 4.0], lambda key: key % 3 + 1)
    content[0] = {**rows(scene_set, as_it_is, lambda key: key % 3 + 1)[0]}
    found = noted(scene_set, tmp_path / "d.json", content)
    assert "only 1 of 17 detections meet any of 17 annotated objects" in found
    assert "category_id" not in found


def test_boxes_on_images_without_annotations(scene_set: InstanceSet, tmp_path: Path) -> None:
    """Nothing to compare with: the numbers alone must look wrong."""
    bare = InstanceSet(scene_set.path, scene_set.images, scene_set.categories, {})
    assert noted(bare, tmp_path / "d.json", rows(scene_set, as_it_is, same)) == ""
    corners = rows(scene_set, lambda b, w, h: [b[0], b[1], b[0] + b[2], b[1] + b[3]], same)
    found = noted(bare, tmp_path / "d.json", corners)
    assert "all fit as x0, y0, x1, y1" in found
    assert "reach more than a pixel past their image and are clipped" in found
    shares = rows(scene_set, lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h], same)
    found = noted(bare, tmp_path / "d.json", shares)
    assert "lie in 0..1" in found
    assert "17 of 17 (100 %) boxes are less than a pixel wide or high" in found


def test_annotated_boxes_against_their_own_outlines(scene_set: InstanceSet, tmp_path: Path) -> None:
    document = json.loads(scene_set.path.read_text())
    for one in document["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]
    (tmp_path / "a.json").write_text(json.dumps(document))
    wrong = read_instances(tmp_path / "a.json", scene_set.images[0].path.parent)
    found = implausible(wrong, prompts_for(wrong, "boxes"), "boxes")
    assert any("read as x0, y0, x1, y1" in note for note in found)
    assert implausible(scene_set, prompts_for(scene_set, "boxes"), "boxes") == ()
    assert implausible(scene_set, prompts_for(scene_set, "points"), "points") == ()


@pytest.mark.parametrize(
    ("known", "meant", "remedy"),
    [
        (range(6), {1: 2, 2: 5, 3: 0}, "were they made for other categories?"),
        (range(6), {1: 2, 2: 3, 3: 4}, "1 taken from every category_id makes 100 % agree"),
        (range(6), {2: 1, 3: 2, 4: 3}, "1 added to every category_id makes 100 % agree"),
        (
            (1, 2, 4, 7, 8),
            {2: 1, 4: 2, 8: 4},
            "a place in the list of categories, counted from 0, makes 100 %",
        ),
        ((1, 3, 4, 6, 8, 9), {4: 3, 6: 4, 9: 6}, "a place in the list of categories, counted from 1, makes"),
    ],
)
def test_categories_that_are_meant_otherwise(
    scene_set: InstanceSet, tmp_path: Path, known: Sequence[int], meant: dict[int, int], remedy: str
) -> None:
    """Three categories are annotated, by the keys; detections name them by the values."""
    document = json.loads(scene_set.path.read_text())
    document["categories"] = [{"id": key, "name": f"c{key}"} for key in known]
    for place, one in enumerate(document["annotations"]):
        one["category_id"] = list(meant)[place % 3]
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = read_instances(tmp_path / "a.json", scene_set.images[0].path.parent)
    found = noted(dataset, tmp_path / "d.json", rows(dataset, as_it_is, meant.__getitem__))
    assert "none of 17 detections on annotated objects have the category of their object" in found
    assert remedy in found
    assert noted(dataset, tmp_path / "d.json", rows(dataset, as_it_is, same)) == ""


def test_ids_that_are_unknown_since_they_are_shifted(scene_set: InstanceSet, tmp_path: Path) -> None:
    shifted = [{**row, "category_id": row["category_id"] - 1} for row in rows(scene_set, as_it_is, same)]
    low = [{**row, "category_id": 0} for row in shifted[:1]] + shifted
    for content, words in (
        (low, "every category_id would be known if it were one more"),
        ([{**shifted[0], "image_id": key.id - 1} for key in scene_set.images], "every image_id would be"),
    ):
        with pytest.raises(AnnotationError, match=words):
            noted(scene_set, tmp_path / "d.json", content)


def test_ids_that_are_unknown_since_they_are_places() -> None:
    coco = [key for key in range(1, 91) if key not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    assert shifted_ids(range(80), coco, "category_id") == (
        "every category_id looks like a place in a list, counted from 0: write the id that stands there"
    )
    assert "counted from 1" in str(shifted_ids(range(1, 81), coco, "category_id"))
    assert shifted_ids(coco, coco, "category_id") is None
    assert shifted_ids([3, 200], coco, "category_id") is None
    assert shifted_ids(["a", None], coco, "category_id") is None


def test_names_that_differ_say_so(scene_set: InstanceSet, tmp_path: Path) -> None:
    names = list(scene_set.categories.values())
    listed = [{"id": key, "name": names[key % len(names)]} for key in scene_set.categories]
    content = {"categories": listed, "annotations": rows(scene_set, as_it_is, same)}
    found = noted(scene_set, tmp_path / "d.json", content)
    assert "8 categories have other names in d.json" in found
    assert "map ids by name" in found


def test_little_or_nothing_to_ask(scene_set: InstanceSet, tmp_path: Path) -> None:
    assert "holds no detection on these images" in noted(scene_set, tmp_path / "d.json", [])
    first = [row for row in rows(scene_set, as_it_is, same) if row["image_id"] == scene_set.images[0].id]
    assert "only 1 of 6 images have detections" in noted(scene_set, tmp_path / "d.json", first)
    bare = InstanceSet(scene_set.path, scene_set.images, scene_set.categories, {})
    assert "no image has an annotated object" in implausible(bare, {}, "boxes")[0]


def test_scores_that_turn_the_order_of_masks(scene_set: InstanceSet, tmp_path: Path) -> None:
    found = [
        row | {"score": -1.5 if place else 0.7} for place, row in enumerate(rows(scene_set, as_it_is, same))
    ]
    assert "16 of 17 (94 %) scores are 0 or less" in noted(scene_set, tmp_path / "d.json", found)


def test_real_detections_of_a_kind_are_not_suspected(scene_set: InstanceSet, tmp_path: Path) -> None:
    """Boxes that stray, miss objects and name wrong categories, as those of a weak detector do."""
    rng = np.random.default_rng(0)
    weak = rows(scene_set, as_it_is, same)
    for row in weak:
        x, y, width, height = row["bbox"]
        across, down = rng.normal(0, 0.15, 2) * (width, height)
        row["bbox"] = [max(0.0, x + across), max(0.0, y + down), width, height]
        if rng.random() < 0.5:
            row["category_id"] = int(rng.choice(list(scene_set.categories)))
    found = noted(scene_set, tmp_path / "d.json", weak)
    assert "read as" not in found
    assert "category" not in found


def test_python_table_stderr_and_json_say_the_same(
    float_sam: Sam, scene_set: InstanceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = sorted(scene_set.categories)
    shifted = rows(scene_set, as_it_is, lambda key: keys[(keys.index(key) + 1) % len(keys)])
    (tmp_path / "d.json").write_text(json.dumps(shifted))
    images = scene_set.images[0].path.parent
    result = api.evaluate(float_sam, images, scene_set.path, tmp_path / "d.json")
    assert result.AP < 0.05
    (note,) = result.notes
    assert "none of 17 detections" in note
    words = ["evaluate", "nano", "--images", images, "--annotations", scene_set.path]
    words += ["--prompts", tmp_path / "d.json"]
    for extra in ([], ["--json"], ["--out", tmp_path / "run", "--json"]):
        assert run([str(word) for word in (*words, *extra)]) == 0
        captured = capsys.readouterr()
        assert f"note: {note}\n" in captured.err
        if "--json" in extra:
            assert json.loads(captured.out)["notes"] == [note]
        else:
            assert f"note: {note}\n" in captured.out
    assert run([str(word) for word in (*words, "--task", "oriented", "--json")]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "have the category of their object" in note


def counts(truth: Sequence[int], labels: Sequence[int]) -> np.ndarray[Any, Any]:
    size = max(*truth, *labels) + 1
    found = np.zeros((size, size), np.int64)
    np.add.at(found, (np.array(truth), np.array(labels)), 10)
    return found


@pytest.mark.parametrize(
    ("truth", "labels", "words"),
    [
        ([1, 2, 3, 1], [1, 2, 3, 2], None),
        ([1, 2, 3, 255], [1, 2, 3, 3], "label 255 is counted as a class, on 25.0 % of the pixels"),
        (list(range(256)), list(range(256)), None),
        ([1, 2, 3, 4], [0, 1, 2, 3], "labels look one too low"),
        ([0, 1, 2, 3], [1, 2, 3, 4], "labels look one too high"),
        ([1, 1, 1, 1], [0, 0, 0, 0], "agree on no pixel: labels there are 0, true ones 1"),
        ([1, 2, 3, 3], [9, 9, 7, 7], "labels there are 7, 9, true ones 1, 2, 3"),
    ],
)
def test_numbers_of_label_maps(truth: Sequence[int], labels: Sequence[int], words: str | None) -> None:
    found = list(label_notes(counts(truth, labels)))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_a_truth_without_a_counted_pixel() -> None:
    (note,) = label_notes(np.zeros((3, 3), np.int64))
    assert "no pixel of the truth is counted" in note
