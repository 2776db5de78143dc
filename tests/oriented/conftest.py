"""Generated scenes as COCO json and as a DOTA folder, and the embedded model, float and packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saqsam import api
from saqsam.sam import Sam
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with ``images/``, ``instances.json`` and ``labels/``; not to be written to."""
    directory = tmp_path_factory.mktemp("oriented-scenes")
    write_scenes(directory, 5, 41)
    document = json.loads((directory / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in document["categories"]}
    labels = directory / "labels"
    labels.mkdir()
    for image in document["images"]:
        lines = ["imagesource:generated", "gsd:0.5"]
        for one in document["annotations"]:
            if one["image_id"] == image["id"]:
                corners = " ".join(str(side) for side in one["rotated_box"])
                lines.append(f"{corners} {names[one['category_id']]} 0")
        (labels / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="session")
def float_sam() -> Sam:
    """The embedded model."""
    return api.load("nano")


@pytest.fixture(scope="session")
def packed_sam(float_sam: Sam, scene_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """The embedded model at 8 bits, saved and loaded."""
    path = tmp_path_factory.mktemp("packed") / "nano-w8a8.safetensors"
    annotations = scene_directory / "instances.json"
    api.quantize(float_sam, "rtn-w8a8", scene_directory / "images", annotations).save(path)
    return api.load(path)
