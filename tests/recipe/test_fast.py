"""``--fast``: fewer steps, nothing else; refused where there is nothing to save."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saqsam.errors import UsageError
from saqsam.recipe import load_recipe
from saqsam.recipe.fast import fast


def test_saq_sam_becomes_saq_sam_fast() -> None:
    found, expected = fast(load_recipe("saq-sam-w3a3")), load_recipe("saq-sam-fast-w3a3")
    assert replace(found, description="") == replace(expected, description="")


@pytest.mark.parametrize("name", ["brecq", "qdrop", "ptq4sam-l", "saq-sam", "best"])
def test_only_learning_is_shortened(name: str) -> None:
    recipe = load_recipe(name)
    found = fast(recipe)
    assert found.reconstruct.iterations == recipe.reconstruct.iterations // 5
    assert (found.reconstruct.whole_iterations > 0) == (recipe.reconstruct.whole_iterations > 0)
    assert {key for key, value in found.to_dict().items() if value != recipe.to_dict()[key]} == {
        "name",
        "reconstruct",
    }


def test_steps_never_reach_zero() -> None:
    recipe = load_recipe("saq-sam", settings=["reconstruct.iterations=3", "reconstruct.whole_iterations=2"])
    assert fast(recipe).reconstruct.iterations == 1
    assert fast(recipe).reconstruct.whole_iterations == 1


@pytest.mark.parametrize("name", ["saq-sam-star", "mse", "best-closed-form"])
def test_nothing_to_save(name: str) -> None:
    with pytest.raises(UsageError, match=f"recipe '{name}' takes no learning steps"):
        fast(load_recipe(name))


def test_fast_twice() -> None:
    with pytest.raises(UsageError, match="is fast already"):
        fast(load_recipe("saq-sam-fast"))
