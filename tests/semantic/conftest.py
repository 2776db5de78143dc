"""Generated scenes with their label maps, and the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from saqsam import api
from saqsam.sam import Sam
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with ``images/`` and ``semantic/``; not to be written to."""
    directory = tmp_path_factory.mktemp("semantic-scenes")
    write_scenes(directory, 4, 57)
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
