"""A recipe in a hurry: a fifth of its steps at higher rates, for a first look."""

from __future__ import annotations

from dataclasses import replace

from saqsam.errors import UsageError
from saqsam.recipe.fields import Recipe

STEPS, WEIGHT_RATE, SCALE_RATE = 5, 4.0, 2.0
"""What steps are divided by, and the rates of rounding, and of scales and biases, are multiplied by:
``saq-sam`` becomes ``saq-sam-fast``."""
SUFFIX = "-fast"


def fast(recipe: Recipe) -> Recipe:
    """The same recipe with a fifth of the steps.

    Raises:
        UsageError: it takes no steps, or is the fast form of another recipe already.
    """
    settings = recipe.reconstruct
    rounds = (settings.encoder, settings.decoder) != ("none", "none")
    steps = rounds and (settings.rounding == "adaround" or settings.scales or settings.bias_rate > 0)
    if not steps and not settings.whole_iterations:
        raise UsageError(
            f"--fast: recipe '{recipe.name}' takes no learning steps, so there are none to save; "
            "leave --fast out"
        )
    if recipe.name.endswith(SUFFIX):
        raise UsageError(f"--fast: recipe '{recipe.name}' is fast already; leave --fast out")
    shorter = replace(
        settings,
        iterations=max(1, settings.iterations // STEPS),
        whole_iterations=-(-settings.whole_iterations // STEPS),
        weight_rate=min(1.0, settings.weight_rate * WEIGHT_RATE),
        scale_rate=min(1.0, settings.scale_rate * SCALE_RATE),
        bias_rate=min(1.0, settings.bias_rate * SCALE_RATE),
        whole_rate=min(1.0, settings.whole_rate * (SCALE_RATE if settings.whole_iterations else 1.0)),
    )
    return replace(recipe, name=f"{recipe.name}{SUFFIX}", reconstruct=shorter)
