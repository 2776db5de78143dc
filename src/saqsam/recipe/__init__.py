"""Recipes: what decides how a float SAM becomes a quantized one.

``fields`` is the only description of a recipe; ``schema`` checks values against it, ``strict_yaml``
and ``commented_yaml`` read and write it, ``named`` and ``settings`` find and adjust it.
"""

from saqsam.recipe.fields import (
    PCC_PERCENTILES,
    ActivationGrids,
    Bits,
    Calibration,
    Clip,
    Folds,
    Mixed,
    Override,
    RangeMethod,
    Ranges,
    Recipe,
    Reconstruct,
)
from saqsam.recipe.named import list_recipes, load_recipe, parse_bits
from saqsam.recipe.published import import_published

__all__ = [
    "PCC_PERCENTILES",
    "ActivationGrids",
    "Bits",
    "Calibration",
    "Clip",
    "Folds",
    "Mixed",
    "Override",
    "RangeMethod",
    "Ranges",
    "Recipe",
    "Reconstruct",
    "import_published",
    "list_recipes",
    "load_recipe",
    "parse_bits",
]
