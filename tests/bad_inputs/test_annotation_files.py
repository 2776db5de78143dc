"""Annotation files that break their own rules as a whole: refused in words, and never a crash.

Several of these make the usual metric code crash, or report a plausible wrong figure.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bad_inputs.annotations import TRIANGLE, annotation, read, refused, square_mask

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.errors import AnnotationError


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
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
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
        ('{"images": [' + "9" * 10_000 + "]}", "a number of thousands of digits; take it out"),
        ('{"images": [1, 2], "annotations": [], "categories": []}', "image 0: 1 is not an object"),
        ("{} {}", "Extra data"),
    ],
)
def test_text_that_is_no_annotation_file(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_instances(tmp_path / "a.json", tmp_path)
    for packed in (gzip.compress(b"{}"), b"PK\x03\x04"):
        (tmp_path / "a.json").write_bytes(packed)
        with pytest.raises(AnnotationError, match="an archive, not JSON; unpack it"):
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


def test_a_list_of_images_alone_is_read_where_that_is_enough(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    """COCO's ``image_info_test-dev2017.json``: images and categories, no annotations."""
    path = tmp_path / "a.json"

    def listed() -> InstanceSet:
        path.write_text(json.dumps(document))
        return read_instances(path, tmp_path, annotated=False)

    whole = listed()
    assert len(whole.instances_of(1)) == 3
    annotations = document.pop("annotations")
    found = listed()
    assert (found.images, found.categories) == (whole.images, whole.categories)
    assert not any(found.instances_of(image.id) for image in found.images)
    assert "the list 'annotations' is missing" in refused(tmp_path, document)
    for wrong in (None, {}, "none"):
        document["annotations"] = wrong
        with pytest.raises(AnnotationError, match="the list 'annotations' is not a list"):
            listed()
    document["annotations"] = [{**annotations[0], "image_id": 77}, annotations[1]]
    assert len(listed().instances_of(1)) == 1
    assert listed().notes == ("1 faults of annotations, which are not needed here",)
    del document["annotations"], document["categories"]
    with pytest.raises(AnnotationError, match="the list 'categories' is missing"):
        listed()


def test_faults_of_one_kind_are_one_line_with_a_count_and_an_example(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    document["annotations"] = [annotation(i + 1, area=-1 - i) for i in range(5000)]
    document["annotations"][7]["bbox"] = [1, 2, 3]
    message = refused(tmp_path, document)
    assert "annotation 0 (id 1): area -1 must be a finite number from 0 (and 4,999 more like it)" in message
    assert "annotation 7 (id 8): bbox [1, 2, 3] must be four numbers" in message
    assert message.count("annotation ") == 2
    assert message.endswith("mend these entries, or take them out of the file")


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
