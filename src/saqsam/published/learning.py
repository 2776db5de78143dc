"""What the released code of SAQ-SAM and its ancestors leaves behind when it has learned, for comparison.

Three things in it make a result that no integers can hold, and they are kept apart from the honest walk:
the coins of QDrop go on falling at the inputs of layers, so that about half of each stays unquantized;
roundings are never decided but for the first layer of each unit; and no term makes them decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from saqsam.errors import RecipeError
from saqsam.families.record import Model
from saqsam.models.sites import INPUT, WEIGHT, Site
from saqsam.modules.quantizer import Override, Quantizer
from saqsam.recipe import Recipe, Reconstruct
from saqsam.reconstruct.acceptance import UnitRecord, judging_images, loss_of, outputs_of
from saqsam.reconstruct.cache import Cache
from saqsam.reconstruct.learner import Learner, write_weight
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.overrides import override_for_good
from saqsam.reconstruct.progress import Progress
from saqsam.reconstruct.unit_solver import Rows, Solved, Solver
from saqsam.reconstruct.units import UnitQuantizers
from saqsam.reconstruct.walk import Asked, Walk


def as_published(recipe: Recipe) -> Recipe:
    """The recipe with what the released code does differently: one image for clipping, no rounding term,
    no local term beside the prompt-aware one, targets from the float unit on quantized input.

    Raises:
        RecipeError: it learns nothing, or in a way that the released code has not.
    """
    learning = recipe.reconstruct
    usual = (learning.rounding, learning.activations, learning.whole_iterations)
    if not learning.learns or learning.unit == "layer" or usual != ("adaround", "quantized", 0):
        raise RecipeError(
            f"recipe {recipe.name}: as published, units learn their rounding on quantized activations; "
            "use qdrop, ptq4sam-l or saq-sam"
        )
    changed = replace(
        learning, rounding_weight=0.0, local_weight=0.0, targets="quantized-input", whole_iterations=0
    )
    return replace(
        recipe,
        name=f"as-published-{recipe.name}",
        clip=replace(recipe.clip, images=1),
        reconstruct=changed,
    )


class PublishedSolver(Solver):
    """As ``Solver``, but soft weights and coins stay in place when a unit is done.

    Attributes:
        coins: drawn from at every forward pass, from then on.
    """

    coins: torch.Generator

    def learn(
        self, problem: Problem, quantizers: UnitQuantizers, settings: Reconstruct, rows: Rows
    ) -> Solved:
        """Learn a unit; what comes of it is kept, better or worse."""
        del rows
        images = judging_images(len(problem.inputs))
        before = loss_of(problem, outputs_of(problem, images))
        learner = Learner(self.model, quantizers, settings)
        steps = self.optimise(problem, learner, settings)
        leave(learner, quantizers, Mixing(settings.quantized_share, self.coins))
        outputs = outputs_of(problem, images)
        after = loss_of(problem, outputs)
        record = UnitRecord(
            problem.unit.name, steps, before, after, "as published", self.together, len(images)
        )
        return Solved(record, outputs)


class PublishedWalk(Walk):
    """As ``Walk`` with a ``PublishedSolver``; nothing is kept in a run directory.

    Args:
        model, recipe, asked, progress: as of ``Walk``.
        coins: see ``PublishedSolver``.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        asked: Sequence[Asked],
        progress: Progress,
        cache: Cache,
        coins: torch.Generator,
    ) -> None:
        super().__init__(model, recipe, asked, progress, None, cache)
        solver = PublishedSolver(model, self.settings.batch, self.seed, None, self.progress_log)
        solver.coins = coins
        self.solver = solver


@torch.no_grad()
def leave(learner: Learner, quantizers: UnitQuantizers, mixing: Mixing) -> None:
    """End a unit as the released code does: one layer on its grid, the others soft, coins at every input."""
    overrides: dict[Quantizer, Override] = {}
    for quantizer, learned in learner.scales.items():
        quantizer.set(learned.final_grid())
    for order, (quantizer, rounding) in enumerate(learner.roundings.items()):
        if order == 0:
            write_weight(learner.layers[quantizer], quantizer, rounding.harden())
        else:
            overrides[quantizer] = partial(_soft, rounding.soft().detach())
    for site, quantizer in quantizers.items():
        if site.role == INPUT:
            overrides[quantizer] = partial(_coin, quantizer, mixing)
    override_for_good(overrides)


def unquantized_weights(quantizers: UnitQuantizers, weights: dict[Site, Tensor]) -> float:
    """Share of elements that are not their own round trip.

    Args:
        quantizers: of the whole model.
        weights: what the model multiplies with, by site.
    """
    off = sum(int((quantizers[site].grid.round_trip(w) != w).sum()) for site, w in weights.items())
    return off / max(1, sum(w.numel() for w in weights.values()))


class Count:
    """Counts elements of activations that leave their quantizers off the grid; one for a model."""

    def __init__(self, quantizers: UnitQuantizers) -> None:
        self.seen = self.off = 0
        self.overrides: dict[Quantizer, Override] = {
            quantizer: partial(self._counted, quantizer, quantizer.override or quantizer.by_stage)
            for site, quantizer in quantizers.items()
            if site.role != WEIGHT
        }

    @property
    def share(self) -> float:
        """Of all elements seen."""
        return self.off / max(1, self.seen)

    def _counted(self, quantizer: Quantizer, present: Override, x: Tensor, value: Tensor | None) -> Tensor:
        found = present(x, value)
        self.seen += x.numel()
        self.off += int((found != quantizer.grid.round_trip(x)).sum())
        return found


def _soft(weight: Tensor, x: Tensor, value: Tensor | None) -> Tensor:
    del x, value
    return weight


def _coin(quantizer: Quantizer, mixing: Mixing, x: Tensor, value: Tensor | None) -> Tensor:
    del value
    return mixing.between(quantizer.grid.round_trip(x), x)
