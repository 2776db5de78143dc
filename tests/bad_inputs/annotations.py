"""A small sound annotation file to be broken, and how broken ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.datasets.masks import encode_mask
from saqsam.errors import AnnotationError

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


def sound_document(folder: Path) -> dict[str, Any]:
    """A sound file with polygons, compressed and uncompressed run lengths; two images go to ``folder``."""
    for name in ("one.png", "two.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
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
