"""Prompts made from annotations and from detections files, on a small set written out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.errors import AnnotationError, UsageError
from saqsam.prompts.detections import read_detections
from saqsam.prompts.from_dataset import centre_click, prompts_for

SQUARE = [[2, 3, 12, 3, 12, 13, 2, 13]]


def annotation(number: int, image: int, **changes: Any) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image,
        "category_id": 4,
        "bbox": [2, 3, 10, 10],
        "area": 100,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    return {**entry, **changes}


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceSet:
    """Three images of 40 x 30: an object and a crowd, a crowd alone, nothing."""
    names = ["one.png", "two.png", "three.png"]
    for name in names:
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    document = {
        "images": [
            {"id": 10 * (i + 1), "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)
        ],
        "categories": [{"id": 4, "name": "thing"}, {"id": 9, "name": "other"}],
        "annotations": [
            annotation(1, 10),
            annotation(2, 10, iscrowd=1),
            annotation(3, 20, iscrowd=1),
            annotation(4, 10, category_id=9, bbox=[-1, 3, 30, 10]),
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    return read_instances(tmp_path / "instances.json", tmp_path)


def detections(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    return path


def row(image: int = 10, score: float = 0.5, box: Any = (2, 3, 10, 10), category: int = 4) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def test_boxes_of_objects_are_asked_and_crowds_are_not(dataset: InstanceSet) -> None:
    prompts = prompts_for(dataset, "boxes")
    assert list(prompts) == [10]
    assert prompts[10].prompts.boxes.tolist() == [[2, 3, 12, 13], [0, 3, 29, 13]]
    assert prompts[10].category_ids == (4, 9)
    assert prompts[10].scores == (1.0, 1.0)
    assert [one.id for one in prompts[10].instances] == [1, 4]
    assert prompts[10].clipped == 1


def test_clicks_lie_on_their_objects(dataset: InstanceSet) -> None:
    prompts = prompts_for(dataset, "points")[10]
    for (x, y), one in zip(prompts.prompts.points[:, 0].tolist(), prompts.instances, strict=True):
        assert one.mask()[int(y), int(x)]
    assert prompts.prompts.labels.tolist() == [[1], [1]]


def test_a_click_is_the_pixel_farthest_from_the_edge() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 20), rng.integers(1, 20))) < 0.8
        mask.flat[rng.integers(mask.size)] = True
        distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        x, y = centre_click(mask)
        assert distance[int(y), int(x)] == distance.max()
        assert (int(y) * mask.shape[1] + int(x)) == int(np.flatnonzero(distance == distance.max())[0])


def test_objects_without_a_pixel_are_not_asked(tmp_path: Path, dataset: InstanceSet) -> None:
    """instances_train2017.json holds such a line (image 200365): it must not stop the other 860,000."""
    document = json.loads(dataset.path.read_text())
    line = [[5.0, 5.0, 5.0, 5.0, 6.0, 5.0, 6.0, 5.0]]
    document["annotations"].append(annotation(5, 30, area=0.0, bbox=[5, 5, 1.0, 0.0], segmentation=line))
    dataset.path.write_text(json.dumps(document))
    reread = read_instances(dataset.path, tmp_path)
    assert any("area 0" in note for note in reread.notes)
    assert not reread.instances_of(30)[0].mask().any()
    assert list(prompts_for(reread, "boxes")) == [10]
    assert list(prompts_for(reread, "points")) == [10]


def test_detections_come_by_falling_score_and_ties_in_the_order_of_the_file(
    tmp_path: Path, dataset: InstanceSet
) -> None:
    rows = [row(score=s, box=(i, 1, 5, 5)) for i, s in enumerate([0.5, 0.9, 0.5, 0.9, 0.1])]
    found = read_detections(detections(tmp_path, rows), dataset)[10]
    assert [one.box[0] for one in found] == [1, 3, 0, 2, 4]
    assert [one.score for one in found] == [0.9, 0.9, 0.5, 0.5, 0.1]
    assert found[0].box == (1, 1, 6, 6)
    top = read_detections(detections(tmp_path, rows), dataset, top_k=3)[10]
    assert top == found[:3]
    sure = read_detections(detections(tmp_path, rows), dataset, score_threshold=0.5)[10]
    assert sure == found[:4]
    assert prompts_for(dataset, tmp_path / "found.json", score_threshold=0.95) == {}


def test_detections_in_an_object_with_annotations(tmp_path: Path, dataset: InstanceSet) -> None:
    path = detections(tmp_path, {"annotations": [row()]})
    assert len(read_detections(path, dataset)[10]) == 1


def test_no_detections_are_no_prompts(tmp_path: Path, dataset: InstanceSet) -> None:
    assert prompts_for(dataset, detections(tmp_path, [])) == {}


def test_detections_of_images_left_out_are_passed_over(tmp_path: Path, dataset: InstanceSet) -> None:
    path = detections(tmp_path, [row(30), row(10), row(20)])
    assert list(prompts_for(dataset.first(1), path)) == [10]
    assert list(prompts_for(dataset.first(2).first(1), path)) == [10]
    assert sorted(prompts_for(dataset, path)) == [10, 20, 30]


@pytest.mark.parametrize("setting", [{"top_k": 0}, {"top_k": -1}, {"score_threshold": float("nan")}])
def test_settings_that_keep_nothing(tmp_path: Path, dataset: InstanceSet, setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        read_detections(detections(tmp_path, [row()]), dataset, **setting)


def test_a_box_that_clipping_leaves_without_area_is_named_by_its_entry(
    tmp_path: Path, dataset: InstanceSet
) -> None:
    path = detections(tmp_path, [row(), row(box=(40 - 1e-9, 3, 10, 10))])
    with pytest.raises(AnnotationError, match=r"detection 1: .* no area"):
        prompts_for(dataset, path)


def test_an_annotated_box_off_the_image_is_a_fault_of_the_file(tmp_path: Path, dataset: InstanceSet) -> None:
    document = json.loads(dataset.path.read_text())
    document["annotations"].append(annotation(7, 30, bbox=[45, 3, 10, 10]))
    dataset.path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"annotation 4 \(id 7\): bbox .* outside the 40 x 30 image"):
        read_instances(dataset.path, tmp_path)
