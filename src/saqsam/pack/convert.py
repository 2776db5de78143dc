"""Between a frozen model and the contents of a packed file; nothing is computed anew in either direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from saqsam.errors import CorruptCheckpoint, RecipeError, SaqsamError
from saqsam.grids.affine import affine_codes
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.lookup import layer_at
from saqsam.models.official import POSITIONS, TIED_POSITIONS
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, Site
from saqsam.pack.file import (
    PackedActivation,
    PackedGrid,
    PackedGroups,
    PackedHybrid,
    PackedModel,
    PackedWeight,
)
from saqsam.quantizer import GROUPED, HYBRID, LOG2, Quantizer
from saqsam.recipe import Recipe


@torch.no_grad()
def to_packed(model: SamModel, recipe: Recipe, records: dict[str, Any]) -> PackedModel:
    """Integers, scales and the float rest of a frozen model, on the CPU.

    Args:
        model: frozen by ``pack.freeze``.
        recipe: what it was made with.
        records: plain JSON types kept for reports.

    Raises:
        InvariantError: a quantizer has no range, or another function answers in its place.
    """
    weights: dict[str, PackedWeight] = {}
    activations: dict[str, PackedGrid] = {}
    for site, quantizer in all_quantizers(model).items():
        quantizer.check_settled()
        if site.role != WEIGHT:
            activations[site.name] = _grid_of(quantizer)
            continue
        weight = layer_at(model, site).weight
        codes = affine_codes(weight, *quantizer.parameters_for(weight), quantizer.bits)
        weights[site.path] = PackedWeight(
            codes.to(torch.uint8).cpu(),
            quantizer.scale.cpu(),
            quantizer.zero_point.to(torch.uint8).cpu(),
            quantizer.bits,
        )
    dtype = getattr(torch, recipe.float_dtype)
    rest = {
        name: parameter.detach().to(dtype).cpu().contiguous()
        for name, parameter in model.named_parameters()
        if name.removesuffix(".weight") not in weights
    }
    return PackedModel(plain_config(model), recipe.to_dict(), weights, activations, rest, records)


def _grid_of(quantizer: Quantizer) -> PackedGrid:
    """What a file holds of an activation's quantizer."""
    if quantizer.grid == GROUPED:
        zero_points = tuple(int(zero_point) for zero_point in quantizer.zero_point)
        groups = tuple(int(group) for group in quantizer.groups)
        return PackedGroups(quantizer.bits, tuple(quantizer.scale.tolist()), zero_points, groups)
    zero_point = int(quantizer.zero_point)
    if quantizer.grid == HYBRID:
        knee, step = quantizer.scale.tolist()
        return PackedHybrid(quantizer.bits, knee, step, zero_point, quantizer.log_levels)
    grid: Literal["log2", "affine"] = "log2" if quantizer.grid == LOG2 else "affine"
    return PackedActivation(grid, quantizer.bits, float(quantizer.scale), zero_point, quantizer.tau)


def _set_grid(quantizer: Quantizer, grid: PackedGrid) -> None:
    """The inverse of ``_grid_of``; raises ``InvariantError`` if there is no such grid."""
    if isinstance(grid, PackedGroups):
        scale, zero_point = torch.tensor(grid.scales), torch.tensor(grid.zero_points).float()
        quantizer.set_grouped(scale, zero_point, torch.tensor(grid.groups))
    elif isinstance(grid, PackedHybrid):
        scale, zero_point = torch.tensor([grid.knee, grid.step]), torch.tensor(float(grid.zero_point))
        quantizer.set_hybrid(scale, zero_point, grid.log_levels)
    elif grid.grid == "log2":
        quantizer.set_log2(torch.tensor(grid.scale), grid.tau)
    else:
        quantizer.set_affine(torch.tensor(grid.scale), torch.tensor(float(grid.zero_point)))


def plain_config(model: SamModel) -> dict[str, Any]:
    """The model's configuration without what only describes this process or machine."""
    config: dict[str, Any] = model.config.to_dict()
    for private in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        config.pop(private, None)
    return config


@torch.no_grad()
def from_packed(packed: PackedModel, path: str | Path) -> tuple[SamModel, Recipe]:
    """Rebuild the frozen model from verified contents; ``path`` is used in messages only.

    Raises:
        CorruptCheckpoint: the parts do not fit each other: a weight is missing, has another shape than
            the configuration says, or another width than the recipe says.
    """
    try:
        recipe = Recipe.from_dict(packed.recipe)
        config = SamConfig(**packed.config)
        with torch.device("meta"):
            model = SamModel(config)
        plan = plan_sites(model, recipe)
    except (RecipeError, TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CorruptCheckpoint(path, f"its configuration or recipe cannot be used ({error})") from error
    _load_parameters(model, packed, path)
    attach(model, plan, float_rel_pos_query=recipe.rel_pos_query == "float")
    _set_quantizers(model, packed, path)
    return model, recipe


def _load_parameters(model: SamModel, packed: PackedModel, path: str | Path) -> None:
    state: dict[str, Tensor] = {name: tensor.float() for name, tensor in packed.rest.items()}
    state |= {f"{name}.weight": weight.values() for name, weight in packed.weights.items()}
    if POSITIONS in state:
        state.setdefault(TIED_POSITIONS, state[POSITIONS])
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() ^ state.keys()):
        raise CorruptCheckpoint(
            path, f"{name} is {'missing' if name in wanted else 'not part of this model'}"
        )
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise CorruptCheckpoint(path, f"{name} has shape {tuple(state[name].shape)}, expected {shape}")
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.eval().requires_grad_(False)


def _set_quantizers(model: SamModel, packed: PackedModel, path: str | Path) -> None:
    quantizers = all_quantizers(model)
    stored = set(packed.activations) | {f"{name}:{WEIGHT}" for name in packed.weights}
    for name in sorted({site.name for site in quantizers} ^ stored):
        raise CorruptCheckpoint(path, f"{name} is quantized in the recipe or in the file, but not in both")
    for site, quantizer in quantizers.items():
        entry = packed.weights[site.path] if site.role == WEIGHT else packed.activations[site.name]
        grid = "affine" if isinstance(entry, PackedWeight) else entry.grid
        if (entry.bits, grid) != (quantizer.bits, quantizer.grid):
            raise CorruptCheckpoint(path, f"{site.name} has {entry.bits} bits ({grid}), its recipe disagrees")
        if isinstance(entry, PackedGroups):
            _check_channels(model, site, entry, path)
        try:
            if isinstance(entry, PackedWeight):
                quantizer.set_affine(entry.scale, entry.zero_point.float())
            else:
                _set_grid(quantizer, entry)
        except SaqsamError as error:
            raise CorruptCheckpoint(path, str(error)) from error
        quantizer.freeze()


def _check_channels(model: SamModel, site: Site, entry: PackedGroups, path: str | Path) -> None:
    channels = layer_at(model, site).weight.shape[1]
    if len(entry.groups) != channels:
        raise CorruptCheckpoint(
            path, f"{site.name} has groups of {len(entry.groups)} channels, not {channels}"
        )
