"""Which images and prompts a model is calibrated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamModel

from saqsam.api import calibration_images
from saqsam.calibrate.images import CalibrationImage, Encoded, decoder_batch, pixels_of
from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet, open_listed
from saqsam.errors import ImageError, UsageError
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Recipe, load_recipe
from saqsam.segment.predictor import decode, embed

if TYPE_CHECKING:
    from tests.conftest import Coco50


def recipe(images: int = 4, prompts: int = 16, seed: int = 0) -> Recipe:
    settings = {"calibration.images": images, "calibration.prompts": prompts, "calibration.seed": seed}
    return load_recipe("mse-w4a4", settings=[f"{key}={value}" for key, value in settings.items()])


def chosen(directory: Path, **settings: int) -> list[CalibrationImage]:
    return calibration_images(recipe(**settings), directory / "images", directory / "instances.json")


def described(images: list[CalibrationImage]) -> list[tuple[str, Any]]:
    return [(one.path.name, one.prompts.boxes.tolist()) for one in images]


def test_the_seed_alone_decides_the_draw(scene_directory: Path) -> None:
    torch.manual_seed(1)
    first = described(chosen(scene_directory, seed=5, prompts=2))
    torch.manual_seed(2)
    assert described(chosen(scene_directory, seed=5, prompts=2)) == first
    others = [described(chosen(scene_directory, seed=seed, prompts=2)) for seed in range(8)]
    assert len({json.dumps(one) for one in others}) > 4


def test_no_image_is_drawn_twice_and_no_more_than_there_are(scene_directory: Path) -> None:
    for seed in range(10):
        names = [one.path.name for one in chosen(scene_directory, images=4, seed=seed)]
        assert len(set(names)) == len(names) == 4
    assert len({one.path.name for one in chosen(scene_directory, images=100)}) == 6


def test_prompts_are_rows_of_the_annotations_in_their_order(
    scene_directory: Path, scene_set: InstanceSet
) -> None:
    boxes = {
        image.file_name: [list(one.box_xyxy) for one in scene_set.instances_of(image.id)]
        for image in scene_set.images
    }
    for one in chosen(scene_directory, images=6, prompts=2):
        rows = [boxes[one.path.name].index(box) for box in one.prompts.boxes.tolist()]
        assert rows == sorted(set(rows))
        assert len(rows) == min(2, len(boxes[one.path.name]))


def test_images_without_prompts_are_passed_over(tmp_path: Path, scene_directory: Path) -> None:
    document = json.loads((scene_directory / "instances.json").read_text())
    kept = {1, 4}
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] in kept]
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = calibration_images(recipe(images=4), scene_directory / "images", tmp_path / "a.json")
    assert sorted(one.path.name for one in found) == ["000001.png", "000004.png"]


def test_nothing_to_calibrate_on_is_an_error(tmp_path: Path, scene_directory: Path) -> None:
    document = json.loads((scene_directory / "instances.json").read_text())
    document["annotations"] = []
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="no image has a prompt"):
        calibration_images(recipe(), scene_directory / "images", tmp_path / "a.json")
    (tmp_path / "empty" / "folder.png").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no images"):
        calibration_images(recipe(), tmp_path / "empty")
    with pytest.raises(UsageError, match="no such directory"):
        calibration_images(recipe(), tmp_path / "absent")
    with pytest.raises(UsageError, match="no such directory"):
        calibration_images(recipe(), tmp_path / "a.json")
    with pytest.raises(UsageError, match="no images"):
        calibration_images(recipe(), [])


def test_without_annotations_a_grid_of_clicks_is_asked(scene_directory: Path) -> None:
    found = calibration_images(recipe(images=3), scene_directory / "images")
    again = calibration_images(recipe(images=3), sorted((scene_directory / "images").iterdir()))
    assert [one.path for one in found] == [one.path for one in again]
    for one in found:
        with Image.open(one.path) as opened:
            width, height = opened.size
        points = one.prompts.points
        assert points.shape == (16, 1, 2)
        assert sorted(set(points[..., 0].flatten().tolist())) == [
            width * f for f in (0.125, 0.375, 0.625, 0.875)
        ]
        assert sorted(set(points[..., 1].flatten().tolist())) == [
            height * f for f in (0.125, 0.375, 0.625, 0.875)
        ]
        assert bool((one.prompts.labels == 1).all())


def test_fewer_clicks_are_spread_over_the_image(scene_directory: Path) -> None:
    """The first four of sixteen would all lie in one column."""
    for one in calibration_images(recipe(images=3, prompts=4), scene_directory / "images"):
        points = one.prompts.points[:, 0]
        assert len(points) == 4
        assert len(set(points[:, 0].tolist())) > 1
        assert len(set(points[:, 1].tolist())) > 1


def test_an_image_that_cannot_be_read_stops_calibration(tmp_path: Path, tiny_sam: SamModel) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        calibration_images(recipe(), tmp_path)
    with pytest.raises(ImageError, match=r"bad\.png"):
        pixels_of(tiny_sam, CalibrationImage(tmp_path / "bad.png", Prompts()))


def turned_set(root: Path, annotated: tuple[int, int]) -> InstanceSet:
    """One photograph stored as 60 x 40 whose tag asks for a quarter turn, annotated as (width, height)."""
    rng = np.random.default_rng(1)
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / "a.png", exif=tags)
    width, height = annotated
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 20, 30],
                "segmentation": [[1, 1, 21, 1, 21, 31, 1, 31]],
            }
        ],
    }
    (root / "a.json").write_text(json.dumps(document))
    return read_instances(root / "a.json", root)


def test_annotated_images_are_seen_as_their_annotations_count(tmp_path: Path, tiny_sam: SamModel) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for annotated, pixels in (((60, 40), stored), ((40, 60), np.rot90(stored, -1))):
        record = turned_set(tmp_path, annotated).images[0]
        assert np.array_equal(open_listed(record).pixels, pixels)
        (one,) = calibration_images(recipe(), tmp_path, tmp_path / "a.json")
        assert pixels_of(tiny_sam, one)[1].original == annotated[::-1]
    (plain,) = calibration_images(recipe(), [tmp_path / "a.png"])
    assert pixels_of(tiny_sam, plain)[1].original == (60, 40)


def test_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    record = turned_set(tmp_path, (61, 40)).images[0]
    with pytest.raises(ImageError, match="is 60 x 40 pixels, but its annotations say 61 x 40"):
        open_listed(record)


@pytest.mark.parametrize("annotated", [True, False])
def test_a_batch_of_images_answers_as_each_alone(
    nano: SamModel, scene_directory: Path, annotated: bool
) -> None:
    if annotated:
        images = chosen(scene_directory, images=6)
    else:
        images = calibration_images(recipe(images=4), scene_directory / "images")
    encoded = []
    for one in images:
        pixel_values, frame = pixels_of(nano, one)
        encoded.append(Encoded(one.path.name, embed(nano, pixel_values), one.prompts, frame))
    batch = decoder_batch(encoded, 2, 3)
    together = batch.run(nano)
    assert together.shape[:2] == (2, batch.prompts)
    taken = sorted(encoded, key=lambda one: -min(len(one.prompts), 3))[:2]
    for index, one in enumerate(taken):
        alone = decode(nano, one.embedding, one.prompts[: batch.prompts], one.frame)[0]
        assert torch.allclose(together[index], alone, atol=1e-4)


def test_real_images_are_drawn_with_their_boxes(coco50: Coco50, nano: SamModel) -> None:
    found = calibration_images(recipe(images=5, prompts=4), coco50.images, coco50.annotations)
    assert len(found) == 5
    for one in found:
        assert 1 <= len(one.prompts) <= 4
        assert pixels_of(nano, one)[0].shape[0] == 1
