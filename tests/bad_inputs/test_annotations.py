"""Annotation files that break their own rules: every fault counted and named, and never a crash.

Several of these make the usual metric code crash, or report a plausible wrong figure.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saqsam.errors import AnnotationError
from saqsam.tasks.coco_json import read_instances
from saqsam.tasks.instance import coco_truth
from saqsam.tasks.instance_set import InstanceSet
from saqsam.tasks.outlines import decode_mask, encode_mask

WIDTH, HEIGHT = 40, 30
TRIANGLE = [2, 3, 12, 3, 12, 13]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = encode_mask(mask)
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def square_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:13, 2:12] = True
    return mask


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": 1,
        "category_id": 4,
        "bbox": [2, 3, 10, 10],
        "area": 50,
        "iscrowd": 0,
        "segmentation": [TRIANGLE],
    }
    return {**entry, **changes}


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A sound file of two images with polygons, compressed and uncompressed run lengths."""
    for name in ("one.png", "two.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    runs = [3, 10, HEIGHT * WIDTH - 13]
    return {
        "info": {"year": 2025},
        "images": [
            {"id": 1, "file_name": "one.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "two.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 4, "name": "thing"}, {"id": 9, "name": "other"}],
        "annotations": [
            annotation(1),
            annotation(2, segmentation=compressed(square_mask()), category_id=9),
            annotation(3, segmentation={"size": [HEIGHT, WIDTH], "counts": runs}, iscrowd=1),
            annotation(4, image_id=2, segmentation=[TRIANGLE, [20, 20, 30, 20, 30, 25, 20, 25]]),
        ],
    }


def read(folder: Path, document: Any) -> InstanceSet:
    text = document if isinstance(document, str) else json.dumps(document)
    path = folder / "a.json"
    path.write_text(text, encoding="utf-8")
    return read_instances(path, folder)


def refused(folder: Path, document: Any) -> str:
    """The message with which a document is refused."""
    with pytest.raises(AnnotationError) as caught:
        read(folder, document)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 300 + 300 * len(caught.value.problems[:20])
    return message


def test_a_sound_file_is_read_as_it_stands(tmp_path: Path, document: dict[str, Any]) -> None:
    found = read(tmp_path, document)
    assert found.notes == ()
    assert [image.file_name for image in found.images] == ["one.png", "two.png"]
    assert found.categories == {4: "thing", 9: "other"}
    one, two, three = found.instances_of(1)
    assert (one.id, one.area, one.iscrowd, one.box_xyxy) == (1, 50.0, False, (2.0, 3.0, 12.0, 13.0))
    assert np.array_equal(two.mask(), square_mask())
    assert three.iscrowd
    assert three.mask().T.ravel()[3:13].all()
    assert three.mask().sum() == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "1"}, "id '1' is a string"),
        ({"id": 1.0}, "id 1.0 is not whole"),
        ({"id": True}, "id True is a boolean"),
        ({"id": -1}, "must be an integer from 0"),
        ({"id": 2**60}, "2^53 - 1"),
        ({"id": 1}, "used by an earlier annotation"),
        ({"image_id": 77}, "image_id 77 is not the id of any image"),
        ({"image_id": "1"}, "image_id '1' is a string"),
        ({"image_id": None}, "image_id None is null"),
        ({"category_id": 5}, "category_id 5 is not the id of any category"),
        ({"category_id": [4]}, "category_id [4]"),
        ({"area": -1}, "area -1 must be"),
        ({"area": "9"}, "area '9' must be"),
        ({"area": 1e999}, "Infinity"),
        ({"area": 10**400}, "must be a finite number"),
        ({"iscrowd": 2}, "iscrowd 2 must be 0 or 1"),
        ({"iscrowd": "0"}, "iscrowd '0'"),
        ({"iscrowd": None}, "iscrowd None"),
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
        ({"segmentation": TRIANGLE}, "where a polygon, a list of numbers, is expected"),
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


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("where", ["polygon", "area", "bbox", "ignored"])
def test_tokens_that_json_does_not_have(
    tmp_path: Path, document: dict[str, Any], token: str, where: str
) -> None:
    spot = {
        "polygon": {"segmentation": [[*TRIANGLE[:5], "@"]]},
        "area": {"area": "@"},
        "bbox": {"bbox": [1, 2, "@", 3]},
        "ignored": {"note": "@"},
    }[where]
    document["annotations"].append({**annotation(5), **spot})
    message = refused(tmp_path, json.dumps(document).replace('"@"', token))
    assert f"the token {token} is not JSON" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ("<!doctype html>", "web page"),
        ("null", "an object with images, annotations, categories expected, got None"),
        ("[]", "is it a detections file?"),
        ("{}", "the list 'images' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "the list 'images' is not a list"),
        ('{"images": [], "annotations": [], "categories": []}', "the list 'images' is empty"),
        ('{"images": []', "not valid JSON"),
        ('{"images": [], "images": []}', "the key 'images' comes twice"),
        ('{"images": [{"id": 1, "id": 2}]}', "the key 'id' comes twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"images": [' + "9" * 10_000 + "]}", "not valid JSON"),
        ('{"images": [1, 2], "annotations": [], "categories": [3]}', "image 0: 1 is not an object"),
        ("{} {}", "Extra data"),
    ],
)
def test_text_that_is_no_annotation_file(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_instances(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_bytes("{}".encode("utf-16"))
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_instances(tmp_path / "a.json", tmp_path)


def test_a_byte_order_mark_is_allowed(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8-sig")
    assert len(read_instances(tmp_path / "a.json", tmp_path)) == 2


def test_lists_that_are_missing(tmp_path: Path, document: dict[str, Any]) -> None:
    for name in ("images", "annotations", "categories"):
        rest = {key: value for key, value in document.items() if key != name}
        assert f"the list '{name}' is missing" in refused(tmp_path, rest)


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
    "size", [(0, 30), (40, -1), (40.0, 30), ("40", 30), (None, 30), (2**31, 2**31), (True, 30)]
)
def test_sizes_of_images(tmp_path: Path, document: dict[str, Any], size: tuple[Any, Any]) -> None:
    document["images"][1].update(width=size[0], height=size[1])
    assert "image 1 (id 2): width" in refused(tmp_path, document)


def test_all_faults_are_counted_and_twenty_shown(tmp_path: Path, document: dict[str, Any]) -> None:
    document["annotations"] = [annotation(i + 1, area=-1) for i in range(5000)]
    message = refused(tmp_path, document)
    assert message.count("area -1") == 20
    assert "(and 4980 more, 5000 in total)" in message


def test_a_file_over_the_limit_is_not_read(
    tmp_path: Path, bounded: Callable[..., AbstractContextManager[None]]
) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with (
        bounded(megabytes=50, seconds=3),
        pytest.raises(AnnotationError, match="longer than the limit of 10 MB"),
    ):
        read_instances(path, tmp_path, max_bytes=10_000_000)
    with bounded(megabytes=50, seconds=3), pytest.raises(AnnotationError, match="longer than the limit"):
        read_instances(path, tmp_path)


def test_files_that_are_none(tmp_path: Path, document: dict[str, Any]) -> None:
    with pytest.raises(AnnotationError, match="no such file"):
        read_instances(tmp_path / "absent.json", tmp_path)
    with pytest.raises(AnnotationError, match="is not a file"):
        read_instances(tmp_path, tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(AnnotationError, match="is not a file"):
        read_instances(tmp_path / "pipe.json", tmp_path)
    read(tmp_path, document)
    with pytest.raises(AnnotationError, match="no such folder of images"):
        read_instances(tmp_path / "a.json", tmp_path / "absent")


STRANGE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1e300, 1e-300, "", "1", "a", "\0", "🐈",
    [], [[]], [1], [None], {}, {"size": []}, {"counts": "a"}, [1e8] * 6, [0] * 7, [[0, 0, 0, 0, 0, 0]],
)  # fmt: skip


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """A copy of a JSON value with something somewhere in it replaced, removed, doubled or shaken."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(len(value))]
        changed = dict(value)
        if rng.random() < 0.12:
            del changed[key]
        else:
            changed[key] = mutated(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = int(rng.integers(len(value)))
        if rng.random() < 0.2:
            return value[:index] + value[index + int(rng.integers(0, 2)) :] + value[: rng.integers(0, 2)]
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.7:
        index = int(rng.integers(len(value)))
        return value[:index] + chr(int(rng.integers(33, 127))) * int(rng.integers(0, 3)) + value[index + 1 :]
    if isinstance(value, int | float) and rng.random() < 0.5:
        return value * float(rng.choice([-1, 2, 1e6])) + int(rng.integers(-3, 4))
    return STRANGE[rng.integers(len(STRANGE))]


def test_ten_thousand_mutated_files_are_read_or_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    """What passes is used: every mask is drawn by the C code that would crash on a bad one."""
    rng = np.random.default_rng(20_25)
    path = tmp_path / "a.json"
    accepted = 0
    for _ in range(10_000):
        changed = document
        for _ in range(int(rng.integers(1, 4))):
            changed = mutated(changed, rng)
        text = json.dumps(changed)
        if rng.random() < 0.1:
            spot = int(rng.integers(len(text)))
            text = text[:spot] + chr(int(rng.integers(32, 127))) * int(rng.integers(0, 2)) + text[spot + 1 :]
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            found = read_instances(path, tmp_path)
        except AnnotationError:
            continue
        accepted += 1
        for image in found.images:
            for one in found.instances_of(image.id):
                assert decode_mask(one.segmentation).shape == (image.height, image.width)
        coco_truth(found)
    assert 500 < accepted < 9_500
