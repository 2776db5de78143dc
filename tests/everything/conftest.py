"""The embedded model, float and packed, and a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from saqsam import api
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with ``images/``, ``semantic/`` and ``instances.json``; not to be written to."""
    directory = tmp_path_factory.mktemp("everything-scenes")
    write_scenes(directory, 2, 19)
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


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """A scene of 96 x 120 pixels."""
    scene: Any = make_scene(np.random.default_rng(23), (96, 120))
    image: npt.NDArray[np.uint8] = scene.image
    return image
