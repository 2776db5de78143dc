"""A quantized nano, made once for each recipe and set of bits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage
from saqsam.pipeline import Report, quantize_model
from saqsam.recipe import Recipe, load_recipe
from saqsam.shipped.embedded import embedded_sam

Quantized = tuple[SamModel, Recipe, Report]


@pytest.fixture(scope="session")
def quantized(scenes: tuple[CalibrationImage, ...]) -> Callable[..., Quantized]:
    """``quantized("rtn-w4a4")``: a fresh copy of nano quantized by that recipe on two scenes."""
    made: dict[str, Quantized] = {}

    def make(name: str) -> Quantized:
        if name not in made:
            model, recipe = embedded_sam("nano"), load_recipe(name)
            made[name] = (model, recipe, quantize_model(model, recipe, scenes[:2]))
        model, recipe, report = made[name]
        return copy.deepcopy(model), recipe, report

    return make
