"""Generated scenes with their label maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scene_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with ``images/`` and ``semantic/``; not to be written to."""
    directory = tmp_path_factory.mktemp("semantic-scenes")
    write_scenes(directory, 4, 57)
    return directory
