"""What the released code of SAQ-SAM and its ancestors leaves behind when it has learned, for comparison.

Three things in it make a result that no integers can hold, and they are kept apart from the honest walk:
the coins of QDrop go on falling at the inputs of layers, so that about half of each stays unquantized;
roundings are never decided but for the first layer of each unit; and no term makes them decide.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from saqsam.errors import RecipeError
from saqsam.models.sites import INPUT, WEIGHT, Site
from saqsam.quantizer import Quantizer
from saqsam.recipe import Recipe
from saqsam.reconstruct.learner import Learner, write_weight
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.memory import optimise_within_memory
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.optimise import mean_loss
from saqsam.reconstruct.replace import Answer, replaced_for_good
from saqsam.reconstruct.walk import UnitRecord, Walk, seeded


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
    changed = replace(learning, rounding_weight=0.0, local_weight=0.0, targets="quantized-input")
    return replace(
        recipe,
        name=f"as-published-{recipe.name}",
        clip=replace(recipe.clip, images=1),
        reconstruct=changed,
    )


class PublishedWalk(Walk):
    """As ``Walk``, but soft weights and coins stay in place when a unit is done.

    Attributes:
        coins: drawn from at every forward pass, from then on; set before the walk begins.
    """

    coins: torch.Generator

    def _learn(self, problem: Problem, own: dict[Site, Quantizer]) -> UnitRecord:
        name, settings = problem.unit.name, self.settings
        before = mean_loss(problem)
        learner = Learner(self.model, own, settings)
        self.at_once = optimise_within_memory(
            problem,
            learner,
            settings,
            lambda: seeded(self.seed, name, self.model.device),
            lambda done, loss: self._step(name, done, loss),
            self.at_once,
            self._again,
        )
        leave(learner, own, Mixing(settings.quantized_share, self.coins))
        after = mean_loss(problem)
        return UnitRecord(name, settings.iterations, before, after, "as published", self.at_once)


@torch.no_grad()
def leave(learner: Learner, own: dict[Site, Quantizer], mixing: Mixing) -> None:
    """End a unit as the released code does: one layer on its grid, the others soft, coins at every input."""
    answers: dict[Quantizer, Answer] = {}
    for quantizer, learned in learner.scales.items():
        learned.settle(quantizer)
    for order, (quantizer, rounding) in enumerate(learner.roundings.items()):
        if order == 0:
            write_weight(learner.layers[quantizer], quantizer, rounding.harden())
        else:
            answers[quantizer] = partial(_soft, rounding.soft().detach())
    for site, quantizer in own.items():
        if site.role == INPUT:
            answers[quantizer] = partial(_coin, quantizer, mixing)
    replaced_for_good(answers)


def unquantized_weights(quantizers: dict[Site, Quantizer], weights: dict[Site, Tensor]) -> float:
    """Share of elements that are not their own round trip.

    Args:
        quantizers: of the whole model.
        weights: what the model multiplies with, by site.
    """
    off = sum(int((quantizers[site].round_trip(w) != w).sum()) for site, w in weights.items())
    return off / max(1, sum(w.numel() for w in weights.values()))


class Count:
    """Counts elements of activations that leave their quantizers off the grid; one for a model."""

    def __init__(self, quantizers: dict[Site, Quantizer]) -> None:
        self.seen = self.off = 0
        self.answers: dict[Quantizer, Answer] = {
            quantizer: partial(self._answer, quantizer, quantizer.forward)
            for site, quantizer in quantizers.items()
            if site.role != WEIGHT
        }

    @property
    def share(self) -> float:
        """Of all elements seen."""
        return self.off / max(1, self.seen)

    def _answer(self, quantizer: Quantizer, forward: Answer, x: Tensor, value: Tensor | None) -> Tensor:
        found = forward(x, value)
        self.seen += x.numel()
        self.off += int((found != quantizer.round_trip(x)).sum())
        return found


def _soft(weight: Tensor, x: Tensor, value: Tensor | None) -> Tensor:
    del x, value
    return weight


def _coin(quantizer: Quantizer, mixing: Mixing, x: Tensor, value: Tensor | None) -> Tensor:
    del value
    return mixing.between(quantizer.round_trip(x), x)
