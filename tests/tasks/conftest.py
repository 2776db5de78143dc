"""A generated set of small images in COCO's format, and ways to break a copy of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with ``images/`` and ``instances.json``; not to be written to."""
    root = tmp_path_factory.mktemp("scene-set")
    write_scenes(root, 6, seed=31)
    return root


@pytest.fixture
def scene_set(scene_directory: Path) -> InstanceSet:
    """The six images, validated."""
    return read_instances(scene_directory / "instances.json", scene_directory / "images")


@pytest.fixture
def scene_document(scene_directory: Path) -> dict[str, Any]:
    """The annotation file as plain JSON, a fresh copy for every test."""
    document: dict[str, Any] = json.loads((scene_directory / "instances.json").read_text())
    return document
