"""Whether the parts of a packed file make one model, seen before any of its values is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from saqsam.checkpoints.config import checked_config
from saqsam.errors import CheckpointError, CorruptCheckpoint, RecipeError
from saqsam.families.record import Config, Model, Shapes
from saqsam.families.registry import family_of, family_of_config
from saqsam.models.plan import Plan, plan_sites
from saqsam.pack.contents import MAX_NAME, PackedModel
from saqsam.recipe import Recipe

MAX_OVERRIDES = 2_000  # mixed precision has one for each site; SAM-H has 642 sites
_AGAIN = "Copy or download the file again, or quantize again"
_WRONG = (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError)


@dataclass(frozen=True)
class Described:
    """What is known of a model by its configuration: its sites, and names and shapes of its tensors."""

    config: Config
    shapes: Shapes


@dataclass(frozen=True)
class LaidOut:
    """What a packed file says, as far as it can be said without its values.

    Attributes:
        path: the file, for messages.
        described: the model without memory, or its configuration alone where that tells names and shapes.
        config: its configuration, checked.
        recipe: the recipe of the file.
        plan: what the recipe means for this model.
    """

    path: str | Path
    described: Model | Described
    config: Config
    recipe: Recipe
    plan: Plan

    @property
    def model(self) -> Model:
        """Float, on the meta device: names and shapes, no memory."""
        described = self.described
        return _without_memory(self.config, self.path) if isinstance(described, Described) else described


def packed_config(packed: PackedModel, path: str | Path) -> Config:
    """The configuration of a packed file, checked, with no more layers than the file has tensors.

    Raises:
        CorruptCheckpoint: no SAM has these sizes.
    """
    count = len(packed.weights) + len(packed.rest)
    try:
        return checked_config(path, packed.config, tensors=count, quantized=True)
    except CheckpointError as error:
        raise CorruptCheckpoint(path, f"its configuration cannot be used: {error.problem}", _AGAIN) from error


def lay_out(packed: PackedModel, path: str | Path) -> LaidOut:
    """What a packed file tells of its model, after every name and shape in it was seen to fit.

    Raises:
        CorruptCheckpoint: configuration, recipe and tensors are not those of one model.
    """
    config = packed_config(packed, path)
    _check_overrides(packed.recipe, path)
    shapes = family_of_config(config).shapes
    described = _without_memory(config, path) if shapes is None else Described(config, shapes(config))
    try:
        recipe = Recipe.from_dict(packed.recipe)
        plan = plan_sites(described, recipe)
    except (RecipeError, *_WRONG) as error:
        raise CorruptCheckpoint(path, f"its recipe cannot be used ({error})", _AGAIN) from error
    _check_shapes(described, packed, path)
    return LaidOut(path, described, config, recipe, plan)


def _without_memory(config: Config, path: str | Path) -> Model:
    try:
        with torch.device("meta"):
            model: Model = family_of_config(config).modules().model_class(config)
            return model
    except _WRONG as error:
        raise CorruptCheckpoint(path, f"its configuration cannot be used ({error})", _AGAIN) from error


def _check_overrides(recipe: Mapping[str, object], path: str | Path) -> None:
    """Each pattern of a recipe is held against each site, so neither may be without bounds."""
    overrides = recipe.get("overrides")
    if not isinstance(overrides, Mapping):
        return  # the recipe's own check says what is wrong
    if len(overrides) > MAX_OVERRIDES or any(len(pattern) > MAX_NAME for pattern in overrides):
        problem = f"its recipe has more than {MAX_OVERRIDES} overrides, or one of over {MAX_NAME} characters"
        raise CorruptCheckpoint(path, problem, _AGAIN)


def _check_shapes(model: Model | Described, packed: PackedModel, path: str | Path) -> None:
    held = {name: tuple(tensor.shape) for name, tensor in packed.rest.items()}
    held |= {f"{name}.weight": tuple(weight.codes.shape) for name, weight in packed.weights.items()}
    for stored, twin in family_of(model).tied:
        if stored in held:
            held.setdefault(twin, held[stored])
    wanted: Shapes
    if isinstance(model, Described):
        wanted = model.shapes
    else:
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() ^ held.keys()):
        what = "missing" if name in wanted else "not part of this model"
        raise CorruptCheckpoint(path, f"{name} is {what}", _AGAIN)
    for name, shape in wanted.items():
        if held[name] != shape:
            raise CorruptCheckpoint(path, f"{name} has shape {held[name]}, expected {shape}", _AGAIN)
