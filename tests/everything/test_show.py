"""Pictures of results, only where they were asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saqsam.cli.app import run
from saqsam.errors import UsageError
from saqsam.images.difference import ONLY_FIRST, ONLY_SECOND
from saqsam.report.show import draw_labels, draw_polygons, make_show_directory, save_picture


def test_evaluate_draws_every_image_when_asked(scene_directory: Path, tmp_path: Path) -> None:
    words = ["evaluate", "nano", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "instances.json", "--show-dir", tmp_path / "show", "--json"]
    assert run([str(word) for word in words]) == 0
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == ["000001.png", "000002.png"]


def test_labels_are_tinted_and_zero_stays_clear() -> None:
    pixels = np.full((6, 8, 3), 100, np.uint8)
    labels = np.zeros((6, 8), np.int64)
    labels[2:4, 2:5], labels[5, 7] = 1, 2
    drawn = np.asarray(draw_labels(pixels, labels))
    assert drawn.shape == (6 * 48, 8 * 48, 3), "small pictures are enlarged"
    drawn = drawn[24::48, 24::48]
    assert (drawn[labels == 0] == 100).all()
    assert len(np.unique(drawn[labels == 1], axis=0)) == 1
    assert (drawn[2, 2] != drawn[5, 7]).any()
    assert (pixels == 100).all()


def test_polygons_are_outlined_in_the_colour_of_their_group() -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    square = np.array([[50.0, 50.0], [150.0, 50.0], [150.0, 150.0], [50.0, 150.0]])
    drawn = np.asarray(draw_polygons(pixels, [square, square + 200, square + np.array([200, 0])], [1, 2, 1]))
    assert (drawn[100, 50] == drawn[100, 250]).all()
    assert (drawn[100, 50] != drawn[300, 250]).any()
    assert (drawn[100, 100] == 0).all()


def test_pictures_are_png_whatever_the_image_is_called(tmp_path: Path) -> None:
    path = save_picture(tmp_path, "photo.of.a dog.jpeg", Image.new("RGB", (3, 2)))
    assert path == tmp_path / "photo.of.a dog.png"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (3, 2))


def test_a_photograph_in_the_folder_of_pictures_stays_what_it_was(tmp_path: Path) -> None:
    photograph = tmp_path / "dog.png"
    Image.new("RGB", (5, 4)).save(photograph)
    (tmp_path / "cat.png").write_text("no picture")
    before = photograph.read_bytes()
    for size in ((3, 2), (6, 2)):  # a second run replaces what the first one made
        for name, found in (("dog.jpg", "dog-2.png"), ("cat.jpg", "cat-2.png"), ("cow.jpg", "cow.png")):
            assert save_picture(tmp_path, name, Image.new("RGB", size), set()).name == found
            with Image.open(tmp_path / found) as picture:
                assert picture.size == size
    assert photograph.read_bytes() == before
    assert (tmp_path / "cat.png").read_text() == "no picture"


def test_images_of_one_name_keep_their_own_pictures(tmp_path: Path) -> None:
    taken: set[str] = set()
    names = ["a/1.png", "b/1.png", "b_1.jpg", "b/1.jpg"]
    paths = [
        save_picture(tmp_path, name, Image.new("RGB", (index + 1, 1)), taken)
        for index, name in enumerate(names)
    ]
    assert paths[0] == tmp_path / "1.png"
    assert paths[1] == tmp_path / "b_1.png"
    for index, path in enumerate(paths):
        with Image.open(path) as picture:
            assert picture.width == index + 1, "no picture replaced another"
    again = save_picture(tmp_path, "a/1.png", Image.new("RGB", (9, 1)), set())
    assert again == paths[0], "another run replaces its pictures"


def test_equally_named_images_are_kept_apart(scene_directory: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
    document = json.loads((scene_directory / "instances.json").read_text())
    for one, name in zip(document["images"], ("a", "b"), strict=True):
        source = scene_directory / "images" / one["file_name"]
        shutil.copy(source, tmp_path / "images" / f"same{'.png' if name == 'a' else '.PNG'}")
        shutil.copy(source, tmp_path / "images" / name / "same.png")
        one["file_name"] = f"{name}/same.png"
    (tmp_path / "instances.json").write_text(json.dumps(document))
    words = ["evaluate", "nano", "--task", "oriented", "--images", tmp_path / "images"]
    words += ["--annotations", tmp_path / "instances.json", "--show-dir", tmp_path / "oriented"]
    assert run([str(word) for word in words]) == 0
    assert sorted(path.name for path in (tmp_path / "oriented").iterdir()) == ["b_same.png", "same.png"]
    words = [
        "everything",
        "nano",
        tmp_path / "images",
        "--points-per-side",
        2,
        "--out",
        tmp_path / "all.json",
    ]
    assert (
        run(
            [
                str(word)
                for word in [*words, "--out", tmp_path / "all.json", "--show-dir", tmp_path / "everything"]
            ]
        )
        == 0
    )
    assert len(list((tmp_path / "everything").iterdir())) == 2


def test_evaluate_draws_the_reference_first(scene_directory: Path, tmp_path: Path) -> None:
    words = ["evaluate", "nano", "--images", scene_directory / "images", "--reference", "nano"]
    words += ["--annotations", scene_directory / "instances.json", "--show-dir", tmp_path, "--limit", 1]
    assert run([str(word) for word in words]) == 0
    with Image.open(tmp_path / "000001.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))[24:]
    size = (sheet.shape[1] - 5 * 8) // 4
    truth, theirs, ours, difference = (sheet[:size, 8 + n * (size + 8) :][:, :size] for n in range(4))
    assert (theirs == ours).all(), "the reference is the model itself"
    assert (truth != ours).any(), "masks are not quite the true ones, and have scores"
    for colour in (ONLY_FIRST, ONLY_SECOND):
        assert not (difference == colour).all(axis=2).any()


def test_where_pictures_are_is_said(
    scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "nano", "--images", scene_directory / "images", "--limit", "1"]
    words += ["--annotations", scene_directory / "instances.json", "--show-dir", tmp_path / "show"]
    assert run([str(word) for word in words]) == 0
    assert f"1 pictures in {tmp_path / 'show'}" in capsys.readouterr().out
    assert run([str(word) for word in [*words, "--json"]]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == [str(tmp_path / "show" / "000001.png")]


def test_a_file_is_no_folder_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "show").write_text("")
    with pytest.raises(UsageError, match="--show-dir"):
        make_show_directory(tmp_path / "show")
