"""The one optimisation loop, for every method: draw images, mix, step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from saqsam.errors import NumericalError
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.replace import replaced

Step = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss of this one (without rounding term)."""


@dataclass(frozen=True)
class Schedule:
    """What changes during the steps of one unit.

    Attributes:
        settings: the recipe's section.
    """

    settings: Reconstruct

    def beta(self, step: int) -> float | None:
        """Exponent of the rounding term, falling linearly after the warm-up; ``None`` while it is off."""
        settings = self.settings
        begin = settings.warm_up * settings.iterations
        if step < begin or settings.rounding_weight == 0.0:
            return None
        passed = (step - begin) / max(1.0, settings.iterations - begin)
        return settings.beta_end + (settings.beta_start - settings.beta_end) * (1.0 - passed)

    def rate(self, kind: str, step: int) -> float:
        """Learning rate of ``weight`` (constant), ``scale`` and ``bias`` (half a cosine, falling to 0)."""
        settings = self.settings
        if kind == "weight":
            return settings.weight_rate
        full = settings.scale_rate if kind == "scale" else settings.bias_rate
        return full * 0.5 * (1.0 + math.cos(math.pi * step / settings.iterations))


def optimise(
    problem: Problem,
    learner: Learner,
    settings: Reconstruct,
    generator: torch.Generator,
    report: Step = lambda done, loss: None,
    at_once: int | None = None,
) -> list[float]:
    """Learn one unit; returns the loss of every step. The results stay in ``learner``.

    Args:
        problem: inputs, targets and loss.
        learner: what is learned, on the same device.
        settings: the recipe's section.
        generator: draws images and coins; on the device of the model.
        report: see ``Step``.
        at_once: images of a step that are worked through together, their gradients added up; bounds
            memory. ``None``: all of them.

    Raises:
        NumericalError: the loss became NaN or infinite.
    """
    schedule = Schedule(settings)
    groups = [{"params": group, "kind": kind} for kind, group in learner.groups().items() if group]
    optimiser = torch.optim.Adam(groups, lr=settings.weight_rate)
    mixing = Mixing(settings.quantized_share, generator) if settings.quantized_share < 1.0 else None
    losses: list[float] = []
    with torch.enable_grad(), learner.learning():
        for step in range(settings.iterations):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(group["kind"], step)
            images = _draw(problem, settings.batch, generator)
            learner.advance(step / settings.iterations)
            optimiser.zero_grad(set_to_none=True)
            loss, beta = 0.0, schedule.beta(step)
            for begin in range(0, len(images), at_once or len(images)):
                part = images[begin : begin + (at_once or len(images))]
                with replaced(learner.answers(mixing)):
                    share = problem.loss(part, mixing, images)
                loss += float(share.detach())
                if begin == 0 and beta is not None:
                    share = share + settings.rounding_weight * learner.undecided(beta)
                share.backward()
            optimiser.step()
            losses.append(loss)
            if not math.isfinite(losses[-1]):
                raise NumericalError(problem.unit.name, f"the loss became {losses[-1]} at step {step}")
            report(step + 1, losses[-1])
    return losses


def _draw(problem: Problem, count: int, generator: torch.Generator) -> list[int]:
    """Different images; only such as have equally many tokens for each prompt fit into one batch."""
    total = len(problem.inputs)
    order: list[int] = torch.randperm(total, generator=generator, device=generator.device).tolist()
    shapes = [tuple(x.shape[1:] for x in problem.inputs[image]) for image in order]
    return [image for image, shape in zip(order, shapes, strict=True) if shape == shapes[0]][:count]


@torch.no_grad()
def mean_loss(problem: Problem) -> float:
    """The loss over all images as the unit stands now, without mixing."""
    count = len(problem.inputs)
    return sum(float(problem.loss([image], None)) for image in range(count)) / count
