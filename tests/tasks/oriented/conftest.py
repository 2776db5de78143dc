"""Generated scenes as COCO json and as a DOTA folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
