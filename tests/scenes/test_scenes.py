"""Generated scenes: repeatable to the byte, sound by every reader, and true to their own pixels."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools.coco import COCO

from saqsam.datasets.coco import read_instances
from saqsam.errors import UsageError
from saqsam.scenes import CATEGORIES, make_scene, rotated_box, write_scenes
from saqsam.scenes.shapes import make_shape

COUNT = 40

# pycocotools was compiled before numpy 2 asked for this.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    write_scenes(root, COUNT, seed=9)
    return root


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path, written: Path) -> None:
    np.random.seed(1)  # global state must not matter
    write_scenes(tmp_path / "again", 8, seed=9)
    again, first = digest(tmp_path / "again"), digest(written)
    pictures = {name for name in again if name.endswith(".png")}
    assert len(pictures) == 16
    assert {again[name] for name in pictures} == {first[name] for name in pictures}
    write_scenes(tmp_path / "third", 8, seed=9)
    assert digest(tmp_path / "third") == again
    write_scenes(tmp_path / "other", 8, seed=10)
    assert not set(digest(tmp_path / "other").values()) & set(again.values())


def test_our_reader_finds_nothing_to_mend(written: Path) -> None:
    found = read_instances(written / "instances.json", written / "images")
    assert found.notes == ()
    assert len(found) == COUNT
    assert list(found.categories.values()) == list(CATEGORIES)
    for image in found.images:
        assert len(found.instances_of(image.id)) >= 1
        with Image.open(image.path) as opened:
            assert (opened.mode, opened.size) == ("RGB", (image.width, image.height))
    used = {one.category_id for image in found.images for one in found.instances_of(image.id)}
    assert used == set(found.categories)


def test_pycocotools_reads_the_same_masks_boxes_and_areas(written: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(written / "instances.json"))
    for image in theirs.loadImgs(theirs.getImgIds()):
        semantic = np.array(Image.open(written / "semantic" / image["file_name"]))
        painted = np.zeros_like(semantic)
        total = np.zeros(semantic.shape, int)
        for entry in theirs.loadAnns(theirs.getAnnIds(imgIds=image["id"])):
            mask = theirs.annToMask(entry).astype(bool)
            assert entry["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x0, y0 = columns.min(), rows.min()
            tight = [x0, y0, columns.max() + 1 - x0, rows.max() + 1 - y0]
            assert entry["bbox"] == tight
            painted[mask] = entry["category_id"]
            total += mask
        assert total.max() == 1, "instances overlap"
        assert np.array_equal(painted, semantic)


def test_rotated_boxes_are_the_smallest_around_their_masks(written: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(written / "instances.json"))
    for entry in theirs.loadAnns(theirs.getAnnIds())[:60]:
        mask = theirs.annToMask(entry)
        box = shapely.Polygon(np.reshape(entry["rotated_box"], (4, 2)))
        rows, columns = np.nonzero(mask)
        pixels = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))
        assert box.buffer(0.01).covers(pixels)
        assert box.area == pytest.approx(pixels.minimum_rotated_rectangle.area, rel=1e-3)
        assert box.area <= entry["bbox"][2] * entry["bbox"][3] * (1 + 1e-3)
        corners = np.reshape(entry["rotated_box"], (4, 2))
        sides = np.roll(corners, -1, 0) - corners
        for side, following in zip(sides, np.roll(sides, -1, 0), strict=True):
            angle = side @ following / np.linalg.norm(side) / np.linalg.norm(following)
            assert abs(angle) < 1e-2


def test_the_rotated_box_of_a_single_pixel_and_of_a_line() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 6] = True
    corners = rotated_box(mask)
    assert {tuple(corner) for corner in corners.round(6).tolist()} == {(6, 4), (7, 4), (7, 5), (6, 5)}
    mask[4] = True
    assert shapely.Polygon(rotated_box(mask)).area == pytest.approx(9.0)


@pytest.mark.parametrize("size", [(16, 16), (64, 200), (201, 33)])
def test_sizes_are_as_asked(tmp_path: Path, size: tuple[int, int]) -> None:
    target = write_scenes(tmp_path, 3, seed=0, size=size)
    found = read_instances(target, tmp_path / "images")
    assert {(image.height, image.width) for image in found.images} == {size}
    assert all(found.instances_of(image.id) for image in found.images)


def test_a_longer_set_starts_with_the_shorter_one(tmp_path: Path, written: Path) -> None:
    write_scenes(tmp_path, 3, seed=9)
    short = json.loads((tmp_path / "instances.json").read_text())
    long = json.loads((written / "instances.json").read_text())
    assert short["images"] == long["images"][:3]
    assert short["annotations"] == long["annotations"][: len(short["annotations"])]


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 0, "seed": 1},
        {"count": 1, "seed": -1},
        {"count": 1, "seed": 1, "size": (15, 64)},
        {"count": 1, "seed": 1, "radius": (1.0, 2.0)},
        {"count": 1, "seed": 1, "radius": (0.0, 40.0)},
        {"count": 1, "seed": 1, "radius": (40.0, 20.0)},
        {"count": 1, "seed": 1, "density": (9.0, 4.0)},
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="write_scenes"):
        write_scenes(tmp_path / "new", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("category", range(1, len(CATEGORIES) + 1))
def test_every_shape_covers_what_its_radius_says(category: int) -> None:
    rng = np.random.default_rng(category)
    for _ in range(10):
        coverage = make_shape(rng, category).coverage(30.0, margin=2)
        assert coverage.dtype == np.float32
        assert coverage.min() == 0.0
        assert coverage.max() == pytest.approx(1.0)
        assert 0.1 * 30**2 < coverage.sum() <= np.pi * 31.5**2
        assert coverage[0].max() == coverage[-1].max() == coverage[:, 0].max() == coverage[:, -1].max() == 0


def test_the_same_generator_state_gives_the_same_scene() -> None:
    one, two = (make_scene(np.random.default_rng(3), (80, 90)) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.labels, two.labels)
    assert one.labels.max() == len(one)


def test_fifty_scenes_take_seconds() -> None:
    start = time.process_time()
    for index in range(50):
        make_scene(np.random.default_rng([1, index]), (128, 128))
    assert time.process_time() - start < 10
