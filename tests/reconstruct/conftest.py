"""A tiny SAM with calibrated quantizers, scenes to calibrate on, and the run of one recipe on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.conftest import make_tiny_sam
from transformers import SamModel

from saqsam.api import calibration_images
from saqsam.calibrate.images import CalibrationImage
from saqsam.pipeline import Report, quantize_model
from saqsam.recipe import Recipe, load_recipe
from saqsam.scenes import write_scenes

PLAIN = ("weight_ranges.method=minmax", "activation_ranges.method=minmax", "clip.method=none")
"""Learning begins from any range: the cheapest ones."""
QUICK = ("calibration.images=4", "calibration.prompts=3", "reconstruct.iterations=8", *PLAIN)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight generated scenes with annotations."""
    directory = tmp_path_factory.mktemp("scenes")
    write_scenes(directory, 8, seed=11, size=(64, 64))
    return directory


@pytest.fixture(scope="session")
def images_for(scenes: Path) -> Callable[[Recipe], Sequence[CalibrationImage]]:
    """The calibration images that a recipe draws from the scenes."""
    return lambda recipe: calibration_images(recipe, scenes / "images", scenes / "instances.json")


@pytest.fixture(scope="session")
def quantized(
    images_for: Callable[[Recipe], Sequence[CalibrationImage]],
) -> Callable[..., tuple[SamModel, Report]]:
    """Quantize a copy of the tiny SAM by a shipped recipe with few steps and further settings."""

    def run(name: str, *settings: str) -> tuple[SamModel, Report]:
        recipe = load_recipe(name, settings=(*QUICK, *settings))
        model = make_tiny_sam()
        return model, quantize_model(model, recipe, images_for(recipe))

    return run


@pytest.fixture(scope="session")
def shared(
    quantized: Callable[..., tuple[SamModel, Report]],
) -> Callable[..., tuple[SamModel, Report]]:
    """As ``quantized``, but once for all tests that ask for the same: not to be changed."""
    return functools.cache(quantized)
