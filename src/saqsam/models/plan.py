"""What a recipe means for one model: bits, grid and range rule for each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from saqsam.errors import RecipeError
from saqsam.families.record import CONVOLUTION, MLP_IN, MLP_OUT, PROJECTION, Model
from saqsam.models.sites import ATTENTION, ENCODER, INPUT, WEIGHT, Site, quantized_sites
from saqsam.quantizer import AFFINE, GROUPED, HYBRID, LOG2
from saqsam.recipe import Override, Ranges, Recipe


@dataclass(frozen=True)
class Choice:
    """How one site is quantized."""

    site: Site
    bits: int
    grid: str
    ranges: Ranges
    groups: int = 1
    """Groups of channels at most, on a grouped grid."""


GROUPABLE = (PROJECTION, MLP_IN)
"""Kinds of the layers whose inputs AHCPTQ groups by channel."""

Plan = Mapping[str, Choice]
"""Choices by site name; a site that is not in the plan stays float."""


def plan_sites(model: Model, recipe: Recipe) -> Plan:
    """Apply a recipe to a model's site table.

    Raises:
        RecipeError: an override matches no site, or puts the logarithmic grid on anything but an
            attention map, or the grouped or hybrid one on anything but the input of a linear layer, or
            asks for grouped grids by other than min-max ranges.
    """
    sites = quantized_sites(model)
    for pattern in recipe.overrides:
        if not any(fnmatchcase(site.name, pattern) for site in sites):
            raise RecipeError(
                f"overrides: {pattern!r} matches no site of this model; `saqsam inspect MODEL` lists them"
            )
    choices = (_choose(site, recipe) for site in sites)
    return {choice.site.name: choice for choice in choices if choice is not None}


def _choose(site: Site, recipe: Recipe) -> Choice | None:
    part = recipe.encoder if site.part == ENCODER else recipe.decoder
    bits = part.weights if site.role == WEIGHT else part.activations
    grid = _grid(site, recipe)
    ranges = recipe.weight_ranges if site.role == WEIGHT else recipe.activation_ranges
    for pattern, override in recipe.overrides.items():
        if not fnmatchcase(site.name, pattern):
            continue
        if override.keep_float:
            return None
        bits = override.bits or bits
        grid = override.grid or grid
        ranges = _override_ranges(ranges, override)
    if grid == LOG2 and site.role != ATTENTION:
        raise RecipeError(f"overrides: {site.name} cannot use the log2 grid, which holds only [0, 1] maps")
    linear_input = site.role == INPUT and site.kind != CONVOLUTION
    if grid in (GROUPED, HYBRID) and not linear_input:
        raise RecipeError(
            f"overrides: {site.name} cannot use the {grid} grid, which is for inputs of linear layers"
        )
    if grid == GROUPED and ranges.method != "minmax":
        raise RecipeError(
            f"{site.name}: grouped grids begin with each channel's smallest and largest value; set "
            f"activation_ranges.method=minmax, or the site's ranges, not {ranges.method}"
        )
    return Choice(site, bits, grid, ranges, recipe.activation_grids.groups)


def _grid(site: Site, recipe: Recipe) -> str:
    """The grid that the recipe's general keys give a site."""
    if site.role == ATTENTION:
        return recipe.attention_grid
    if site.role == INPUT and site.kind in GROUPABLE:
        return recipe.activation_grids.projections
    if site.role == INPUT and site.kind == MLP_OUT:
        return recipe.activation_grids.mlp_hidden
    return AFFINE


def _override_ranges(ranges: Ranges, override: Override) -> Ranges:
    return ranges if override.ranges is None else override.ranges
