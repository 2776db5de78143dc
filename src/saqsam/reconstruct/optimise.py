"""The one optimisation loop, for every method: draw images, mix, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.errors import NumericalError
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.learner import Learner, precision
from saqsam.reconstruct.loss import Problem, total
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.overrides import overridden

Step = Callable[[int, Mapping[str, float]], None]
"""Called after each step with the number of steps done and the terms of this one: ``loss``, its parts
``local`` and ``prompt`` as far as they are used, and besides ``rounding``, while that term is on."""


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
    report: Step = lambda done, terms: None,
    together: int | None = None,
) -> list[float]:
    """Learn one unit; returns the loss of every step. The results stay in ``learner``.

    Args:
        problem: inputs, targets and loss.
        learner: what is learned, on the same device.
        settings: the recipe's section.
        generator: draws images and coins; on the device of the model.
        report: see ``Step``.
        together: images of a step that are worked through together, their gradients added up; bounds
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
            rows = _drawn_rows(problem, settings.row_share, generator)
            learner.advance(step / settings.iterations)
            optimiser.zero_grad(set_to_none=True)
            seen, beta = _Seen(), schedule.beta(step)
            for begin in range(0, len(images), together or len(images)):
                part = images[begin : begin + (together or len(images))]
                with overridden(learner.overrides(mixing)), precision(settings, generator.device):
                    terms = problem.terms(problem.run(part, mixing, rows), part, images, rows)
                share = total(terms)
                if begin == 0 and beta is not None and learner.roundings:
                    terms["rounding"] = settings.rounding_weight * learner.undecided(beta)
                    share = share + terms["rounding"]
                seen.add(terms)
                share.backward()
            optimiser.step()
            losses.append(seen.loss)
            if not math.isfinite(losses[-1]):
                raise NumericalError(problem.unit.name, f"the loss became {losses[-1]} at step {step}")
            report(step + 1, {"loss": seen.loss, **seen.terms})
    return losses


class _Seen:
    """Terms of one step, added up over its parts."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        found = torch.stack([term.detach() for term in terms.values()]).tolist()  # a GPU is waited for once
        for name, value in zip(terms, found, strict=True):
            self.terms[name] = self.terms.get(name, 0.0) + value

    @property
    def loss(self) -> float:
        """All terms but that of rounding, which says nothing about the unit's output."""
        return sum(value for name, value in self.terms.items() if name != "rounding")


def _draw(problem: Problem, count: int, generator: torch.Generator) -> list[int]:
    """Different images; only such as have equally many tokens for each prompt fit into one batch."""
    total = len(problem.inputs)
    order: list[int] = torch.randperm(total, generator=generator, device=generator.device).tolist()
    shapes = [problem.shapes[image] for image in order]
    return [image for image, shape in zip(order, shapes, strict=True) if shape == shapes[0]][:count]


def _drawn_rows(problem: Problem, share: float, generator: torch.Generator) -> slice | None:
    """Rows of tokens that a step looks at, ``None`` for all; every row is as likely as any other."""
    if share >= 1.0 or problem.unit.rows is None:
        return None
    subsets = problem.unit.rows.split(problem.shapes[0][0][0], share)
    heights = torch.tensor([float(rows.stop - rows.start) for rows in subsets], device=generator.device)
    return subsets[int(torch.multinomial(heights, 1, generator=generator))]
