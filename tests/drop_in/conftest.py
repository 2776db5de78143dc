"""A packed nano and its directory, as transformers loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import saqsam
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 2, 14).parent


@pytest.fixture(scope="session")
def packed(packed_nano: Callable[[str], Path]) -> Path:
    """A nano with log grids, at 4 bits, as one packed file."""
    return packed_nano("ptq4sam-s-w4a4")


@pytest.fixture(scope="session")
def saved(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    saqsam.load(packed).save_pretrained(directory)
    return directory
