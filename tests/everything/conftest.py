"""Two scenes in a folder, and one as an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from saqsam.scenes import make_scene, write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with ``images/``, ``semantic/`` and ``instances.json``; not to be written to."""
    directory = tmp_path_factory.mktemp("everything-scenes")
    write_scenes(directory, 2, 19)
    return directory


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """A scene of 96 x 120 pixels."""
    scene: Any = make_scene(np.random.default_rng(23), (96, 120))
    image: npt.NDArray[np.uint8] = scene.image
    return image
