"""Between a frozen model and the contents of a packed file; nothing is computed anew in either direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saqsam.errors import CorruptCheckpoint, SaqsamError
from saqsam.families.record import Model
from saqsam.families.registry import family_of
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT, Site
from saqsam.models.stored import stored_tensors
from saqsam.modules.quantizer import Quantizer
from saqsam.pack.file import PackedActivation, PackedModel, PackedWeight
from saqsam.pack.fit import lay_out
from saqsam.recipe import Recipe


@torch.no_grad()
def to_packed(model: Model, recipe: Recipe, records: dict[str, Any]) -> PackedModel:
    """Integers, scales and the float rest of a frozen model, on the CPU.

    Args:
        model: frozen by ``pack.freeze``.
        recipe: what it was made with.
        records: plain JSON types kept for reports.

    Raises:
        InvariantError: a quantizer has no range, or another function answers in its place.
    """
    weights: dict[str, PackedWeight] = {}
    activations: dict[str, PackedActivation] = {}
    for site, quantizer in all_quantizers(model).items():
        quantizer.check_has_range()
        if site.role != WEIGHT:
            activations[site.name] = quantizer.grid.to_packed()
            continue
        grid = quantizer.affine
        weights[site.path] = PackedWeight(
            grid.codes(layer_at(model, site).weight).to(torch.uint8).cpu(),
            grid.scale.cpu(),
            grid.zero_point.to(torch.uint8).cpu(),
            grid.bits,
        )
    dtype = getattr(torch, recipe.float_dtype)
    twins = {twin for _, twin in family_of(model).tied}
    rest = {
        name: tensor.detach().to(dtype).cpu().contiguous()
        for name, tensor in stored_tensors(model).items()
        if name.removesuffix(".weight") not in weights and name not in twins
    }
    return PackedModel(plain_config(model), recipe.to_dict(), weights, activations, rest, records)


def plain_config(model: Model) -> dict[str, Any]:
    """The model's configuration without what only describes this process or machine."""
    config: dict[str, Any] = model.config.to_dict()
    for private in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        config.pop(private, None)
    return config


@torch.no_grad()
def from_packed(packed: PackedModel, path: str | Path) -> tuple[Model, Recipe]:
    """Rebuild the frozen model from verified contents; ``path`` is used in messages only.

    Raises:
        CorruptCheckpoint: the parts do not fit each other: a weight is missing, has another shape than
            the configuration says, or another width than the recipe says.
    """
    found = lay_out(packed, path)
    model, recipe = found.model, found.recipe
    _load_parameters(model, packed)
    attach(model, found.plan, float_rel_pos_query=recipe.rel_pos_query == "float")
    _set_quantizers(model, packed, path)
    return model, recipe


def _load_parameters(model: Model, packed: PackedModel) -> None:
    state = packed.float_state()
    for stored, twin in family_of(model).tied:
        if stored in state:
            state.setdefault(twin, state[stored])
    model.load_state_dict(state, strict=True, assign=True)
    family_of(model).modules().fill_tables(model)
    model.tie_weights()
    model.eval().requires_grad_(False)


def _set_quantizers(model: Model, packed: PackedModel, path: str | Path) -> None:
    quantizers = all_quantizers(model)
    stored = set(packed.activations) | {f"{name}:{WEIGHT}" for name in packed.weights}
    for name in sorted({site.name for site in quantizers} ^ stored):
        raise CorruptCheckpoint(path, f"{name} is quantized in the recipe or in the file, but not in both")
    for site, quantizer in quantizers.items():
        entry = packed.weights[site.path] if site.role == WEIGHT else packed.activations[site.name]
        if (entry.bits, entry.grid) != (quantizer.bits, quantizer.kind.name):
            raise CorruptCheckpoint(
                path, f"{site.name} has {entry.bits} bits ({entry.grid}), its recipe disagrees"
            )
        grid = _grid_of(quantizer, entry)
        if (channels := grid.channels()) is not None:
            _check_channels(model, site, channels, path)
        try:
            quantizer.set(grid)
        except SaqsamError as error:
            raise CorruptCheckpoint(path, str(error)) from error
        quantizer.freeze()


def _grid_of(quantizer: Quantizer, entry: PackedWeight | PackedActivation) -> Grid:
    if isinstance(entry, PackedWeight):
        return Affine(entry.bits, entry.scale, entry.zero_point.float())
    return quantizer.kind.from_packed(entry)


def _check_channels(model: Model, site: Site, found: int, path: str | Path) -> None:
    channels = layer_at(model, site).weight.shape[1]
    if found != channels:
        raise CorruptCheckpoint(path, f"{site.name} has groups of {found} channels, not {channels}")
