"""A packed nano and its directory, as transformers loads it."""

from __future__ import annotations

from pathlib import Path

import pytest

import saqsam
from saqsam.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 2, 14).parent


@pytest.fixture(scope="session")
def packed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano with log grids, at 4 bits, as one packed file."""
    path = tmp_path_factory.mktemp("packed") / "nano.saqsam"
    quantized = saqsam.quantize(
        saqsam.load("nano"), "ptq4sam-s-w4a4", scenes / "images", scenes / "instances.json"
    )
    quantized.save(path)
    return path


@pytest.fixture(scope="session")
def saved(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    saqsam.load(packed).save_pretrained(directory)
    return directory
