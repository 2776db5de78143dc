"""What a recipe means for one model: bits, grid and range rule for each site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import translate

from saqsam.errors import RecipeError
from saqsam.families.record import CONVOLUTION, MLP_IN, MLP_OUT, PROJECTION, Model
from saqsam.families.registry import HasConfig
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid, Place
from saqsam.grids.registry import find_grid
from saqsam.models.sites import ATTENTION, ENCODER, INPUT, WEIGHT, Site, quantized_sites
from saqsam.recipe import Override, Ranges, Recipe


@dataclass(frozen=True)
class Choice:
    """How one site is quantized."""

    site: Site
    bits: int
    kind: type[Grid]
    ranges: Ranges
    groups: int = 1
    """Groups of channels at most, on a grouped grid."""


GROUPABLE = (PROJECTION, MLP_IN)
"""Kinds of the layers whose inputs AHCPTQ groups by channel."""

Plan = Mapping[str, Choice]
"""Choices by site name; a site that is not in the plan stays float."""


def plan_sites(model: HasConfig, recipe: Recipe) -> Plan:
    """Apply a recipe to a model's site table.

    Raises:
        RecipeError: an override matches no site, or puts the logarithmic grid on anything but an
            attention map, or the grouped or hybrid one on anything but the input of a linear layer, or
            asks for grouped grids by other than min-max ranges.
    """
    sites = quantized_sites(model)
    # Compiled once: mixed precision has a pattern for every site, more than fnmatch remembers.
    matchers = {pattern: re.compile(translate(pattern)) for pattern in recipe.overrides}
    for pattern, matcher in matchers.items():
        if not any(matcher.match(site.name) for site in sites):
            raise RecipeError(
                f"overrides: {pattern!r} matches no site of this model; `saqsam inspect MODEL` lists them"
            )
    choices = (_choose(site, recipe, matchers) for site in sites)
    return {choice.site.name: choice for choice in choices if choice is not None}


def plan_to_store(model: Model, recipe: Recipe) -> Plan:
    """As :func:`plan_sites`, for a model that will be packed: its file holds overrides in alphabetical order.

    Raises:
        RecipeError: as :func:`plan_sites`, or that order gives another plan, so that the file would not open.
    """
    plan = plan_sites(model, recipe)
    in_file = plan_sites(model, replace(recipe, overrides=dict(sorted(recipe.overrides.items()))))
    moved = sorted(name for name in {*plan, *in_file} if plan.get(name) != in_file.get(name))
    if moved:
        raise RecipeError(
            f"overrides: packed files hold them in alphabetical order, where the last one that matches wins: "
            f"{len(moved)} sites would change, such as {moved[0]}; write patterns that do not overlap"
        )
    return plan


def _choose(site: Site, recipe: Recipe, matchers: Mapping[str, re.Pattern[str]]) -> Choice | None:
    part = recipe.encoder if site.part == ENCODER else recipe.decoder
    bits = part.weights if site.role == WEIGHT else part.activations
    grid = _grid(site, recipe)
    ranges = recipe.weight_ranges if site.role == WEIGHT else recipe.activation_ranges
    for pattern, override in recipe.overrides.items():
        if not matchers[pattern].match(site.name):
            continue
        if override.keep_float:
            return None
        bits = override.bits or bits
        grid = override.grid or grid
        ranges = _override_ranges(ranges, override)
    kind = find_grid(grid)
    if kind is None:
        raise RecipeError(
            f"overrides: {site.name} is to have a {grid} grid, which nothing has registered; import what "
            "registers it, or name another"
        )
    if not kind.suits(_place(site)):
        raise RecipeError(f"overrides: {site.name} cannot use the {grid} grid, which {kind.place_reason}")
    if kind.range_methods and ranges.method not in kind.range_methods:
        raise RecipeError(
            f"{site.name}: {kind.range_reason}; set activation_ranges.method={kind.range_methods[0]}, or the "
            f"site's ranges, not {ranges.method}"
        )
    return Choice(site, bits, kind, ranges, recipe.activation_grids.groups)


def _place(site: Site) -> Place:
    """What kind of tensor a site is, for grids."""
    if site.role == WEIGHT:
        return Place.WEIGHT
    if site.role == ATTENTION:
        return Place.MAP
    return Place.LINEAR_INPUT if site.role == INPUT and site.kind != CONVOLUTION else Place.OTHER


def _grid(site: Site, recipe: Recipe) -> str:
    """The grid that the recipe's general keys give a site."""
    if site.role == ATTENTION:
        return recipe.attention_grid
    if site.role == INPUT and site.kind in GROUPABLE:
        return recipe.activation_grids.projections
    if site.role == INPUT and site.kind == MLP_OUT:
        return recipe.activation_grids.mlp_hidden
    return Affine.name


def _override_ranges(ranges: Ranges, override: Override) -> Ranges:
    return ranges if override.ranges is None else override.ranges
