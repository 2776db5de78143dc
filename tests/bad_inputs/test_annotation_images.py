"""The images that an annotation file lists: names that lead elsewhere, sizes that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.bad_inputs.annotations import HEIGHT, WIDTH, read, refused

from saqsam.datasets.coco import read_instances
from saqsam.errors import AnnotationError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../one.png", "leaves the image folder"),
        ("a/../../one.png", "leaves the image folder"),
        ("a\\..\\..\\one.png", "leaves the image folder"),
        ("/etc/passwd", "leaves the image folder"),
        ("C:\\one.png", "leaves the image folder"),
        ("\\\\server\\one.png", "leaves the image folder"),
        ("absent.png", "is listed but is not in"),
        (".", "is listed but is not in"),
        ("", "is not the name of a file"),
        (7, "is not the name of a file"),
        (None, "is not the name of a file"),
        ("one\0.png", "zero byte"),
        ("\ud800.png", "lone surrogate"),
        ("x" * 5000, "is listed but is not in"),
        ("one.png", "was listed by an earlier image"),
    ],
)
def test_file_names_that_are_wrong_or_lead_elsewhere(
    tmp_path: Path, document: dict[str, Any], name: Any, words: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for file in ("one.png", "two.png"):
        (tmp_path / file).rename(inner / file)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "one.png")
    document["images"][1]["file_name"] = name
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match="image 1") as caught:
        read_instances(path, inner)
    assert words in str(caught.value)


def test_links_are_followed_and_broken_ones_named(tmp_path: Path, document: dict[str, Any]) -> None:
    """Subsets are often folders of links: whoever owns the folder chose them, the annotations cannot."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "one.png").rename(inner / "one.png")
    (tmp_path / "a.json").write_text(json.dumps(document))
    (inner / "two.png").symlink_to(tmp_path / "two.png")
    (tmp_path / "link").symlink_to(inner, target_is_directory=True)
    assert len(read_instances(tmp_path / "a.json", tmp_path / "link")) == 2
    (tmp_path / "two.png").unlink()
    with pytest.raises(AnnotationError, match=r"image 1 \(id 2\): file 'two.png' is listed but is not in"):
        read_instances(tmp_path / "a.json", inner)
    (inner / "two.png").unlink()
    (inner / "two.png").symlink_to(inner / "two.png")
    with pytest.raises(AnnotationError, match="is listed but is not in"):
        read_instances(tmp_path / "a.json", inner)


def test_names_in_any_script(tmp_path: Path, document: dict[str, Any]) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "ä ö 猫 🐈.png")
    document["images"][1]["file_name"] = "ä ö 猫 🐈.png"
    document["categories"][0]["name"] = "<script>猫</script>"
    for ascii_only in (True, False):
        found = read(tmp_path, json.dumps(document, ensure_ascii=ascii_only))
        assert found.images[1].path.is_file()
        assert found.categories[4] == "<script>猫</script>"


@pytest.mark.parametrize(
    "size", [(0, 30), (40, -1), (40.5, 30), ("4x", 30), (None, 30), (2**31, 2**31), (True, 30)]
)
def test_sizes_of_images(tmp_path: Path, document: dict[str, Any], size: tuple[Any, Any]) -> None:
    document["images"][1].update(width=size[0], height=size[1])
    assert "image 1 (id 2): width" in refused(tmp_path, document)
