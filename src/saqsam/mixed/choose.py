"""From a recipe that asks for mixed precision to one that says which site gets how many bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from saqsam.calibrate.images import CalibrationImage
from saqsam.families.record import Model
from saqsam.freed_memory import give_back_freed_memory
from saqsam.mixed.allocate import allocate
from saqsam.mixed.sensitivity import sensitivities
from saqsam.models.attach import all_quantizers
from saqsam.models.plan import plan_sites
from saqsam.pipeline import Progress, calibrated_copies
from saqsam.recipe import Override, Recipe
from saqsam.reconstruct.seeds import seeded

LEAST, MOST = 2, 8
"""Bits that a packed file can hold."""


@torch.no_grad()
def allocate_bits(
    model: Model,
    recipe: Recipe,
    images: Sequence[CalibrationImage],
    progress: Progress = lambda stage, done, total: None,
) -> Recipe:
    """The recipe with its mixture written out as overrides; the same recipe if nothing is left to choose.

    Weights and activations keep their budgets separately: the sum over weights of elements times bits, and
    that over activations of multiplications times bits, are at most what the recipe's own widths come to.
    Sites whose bits an override of the recipe sets, or which it leaves float, are not touched.

    Args:
        model: the float model; it is not changed.
        recipe: its section ``mixed`` says what may be chosen.
        images: calibration images with prompts; the first ``mixed.images`` are used.
        progress: see ``pipeline.Progress``.
    """
    settings = recipe.mixed
    if not settings.enabled:
        return recipe
    plan = plan_sites(model, recipe)
    free = [site for site in plan if not any(_fixes(site, *item) for item in recipe.overrides.items())]
    if not free:
        return recipe
    images = [image for image in images if len(image.prompts)][: settings.images]
    offsets = sorted({0, *settings.offsets})
    widths = [{site: min(MOST, max(LEAST, plan[site].bits + offset)) for site in free} for offset in offsets]
    recipes = [
        replace(
            recipe, overrides={**recipe.overrides, **{site: Override(bits=n) for site, n in width.items()}}
        )
        for width in widths
    ]
    steps = 2 * len(images)

    def observed(stage: str, done: int, total: int) -> None:
        if stage == "encoder ranges":
            progress("mixed precision", done, steps)

    first, *others = calibrated_copies(model, recipes, images, observed)
    give_back_freed_memory()
    quantizers = [all_quantizers(first), *map(all_quantizers, others)]
    del others  # their weights are those of the first
    draw = seeded(recipe.calibration.seed, "mixed precision")

    def measured(done: int) -> None:
        progress("mixed precision", len(images) + done, steps)

    errors, sizes = sensitivities(first, quantizers, images, settings.probes, draw, measured)
    del first, quantizers
    give_back_freed_memory()
    chosen: dict[str, int] = {}
    for part in (sizes.weights, sizes.activations):
        mine = {site.name: size for site, size in part.items() if site.name in free}
        curves = {
            site.name: {width[site.name]: error for width, error in zip(widths, errors[site], strict=True)}
            for site in part
            if site.name in mine
        }
        chosen |= allocate(curves, mine, sum(size * plan[site].bits for site, size in mine.items()))
    overrides = {site: Override(bits=chosen[site]) for site in free}
    return replace(recipe, overrides={**recipe.overrides, **overrides})


def _fixes(site: str, pattern: str, override: Override) -> bool:
    return (override.bits is not None or override.keep_float) and fnmatchcase(site, pattern)
