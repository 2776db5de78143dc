"""From a recipe that asks for mixed precision to one that says which site gets how many bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from saqsam.calibrate.images import CalibrationImage
from saqsam.families.record import Model
from saqsam.mixed.allocate import allocate
from saqsam.mixed.sensitivity import sensitivities
from saqsam.models.plan import plan_sites
from saqsam.pipeline import Progress, calibrated_copy
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
    models, widths = [], []
    for done, offset in enumerate(offsets):
        progress("mixed precision", done, len(offsets) + 1)
        width = {site: min(MOST, max(LEAST, plan[site].bits + offset)) for site in free}
        widths.append(width)
        overrides = {**recipe.overrides, **{site: Override(bits=bits) for site, bits in width.items()}}
        models.append(calibrated_copy(model, replace(recipe, overrides=overrides), images))
    progress("mixed precision", len(offsets), len(offsets) + 1)
    draw = seeded(recipe.calibration.seed, "mixed precision")
    errors, sizes = sensitivities(models, images, settings.probes, draw)
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
