"""One unit, from its problem to what it leaves in the model: learned now, or taken from the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saqsam.families.record import Model
from saqsam.jobs.directory import RunDirectory
from saqsam.models.sites import Site
from saqsam.modules.quantizer import Quantizer
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.acceptance import LEARNED, NEAREST, UnitRecord, judges, loss_of, outputs_of
from saqsam.reconstruct.gptq import round_layer
from saqsam.reconstruct.layerwise import layer_by_layer
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.memory import optimise_within_memory
from saqsam.reconstruct.progress import Telling
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.snapshot import learned, restore_learned
from saqsam.reconstruct.units import State

Own = Mapping[Site, Quantizer]
Rows = Sequence[dict[str, Tensor]]
Part = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Solved:
    """A finished unit.

    Attributes:
        record: what became of it.
        outputs: what now leaves it, of those images on which that is known already.
    """

    record: UnitRecord
    outputs: Mapping[int, State]


class Solver:
    """Finishes units one after the other.

    Args:
        model: attached.
        batch: images of a step.
        seed: the recipe's.
        directory: keeps finished units, and has those of an interrupted run.
        telling: hears of every step.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        seed: int,
        directory: RunDirectory | None,
        telling: Telling,
    ) -> None:
        self.model, self.seed = model, seed
        self.directory, self.telling = directory, telling
        self.at_once = batch

    def solve(self, problem: Problem, own: Own, settings: Reconstruct, rows: Rows = ()) -> Solved:
        """Learn a unit, or take it from the run directory if it was finished before.

        Args:
            problem: its unit runs float but for its own quantizers and those of finished units.
            own: the unit's quantizers.
            settings: what it is learned with.
            rows: what enters each layer in the float model, by image; for closed-form rounding.
        """
        part = self.stored(problem.unit.name)
        if part is not None:
            return Solved(self.restore(part, own), {})
        solved = self.learn(problem, own, settings, rows)
        self.keep(solved.record, own)
        return solved

    def stored(self, name: str) -> Part | None:
        """What the run directory has of a unit; ``None`` if it has to be learned."""
        return None if self.directory is None else self.directory.load(name)

    def restore(self, part: Part, own: Own) -> UnitRecord:
        """Put a stored unit into the model."""
        tensors, fields = part
        restore_learned(self.model, own, tensors)
        record = UnitRecord(**fields)
        self.at_once = min(self.at_once, record.at_once or self.at_once)
        return record

    def keep(self, record: UnitRecord, own: Own) -> None:
        """Tell of a finished unit, and store it."""
        if self.directory is not None:
            self.directory.save(record.unit, learned(self.model, own), record.to_dict())
        self.telling.finished(record)

    def learn(self, problem: Problem, own: Own, settings: Reconstruct, rows: Rows) -> Solved:
        """Learn a unit; nearest rounding is kept if the judging images do not profit."""
        images = judges(len(problem.inputs))
        before = loss_of(problem, outputs_of(problem, images))
        learner = Learner(self.model, own, settings)
        if settings.rounding == "gptq":
            self._round(problem, own, settings, rows)
        steps = self.optimise(problem, learner, settings) if learner.learns else 0
        learner.settle()
        outputs = outputs_of(problem, images)
        after, kept = loss_of(problem, outputs), LEARNED
        if not after <= before:
            learner.restore()
            outputs, kept = {}, NEAREST
        record = UnitRecord(problem.unit.name, steps, before, after, kept, self.at_once, len(images))
        return Solved(record, outputs)

    def optimise(self, problem: Problem, learner: Learner, settings: Reconstruct) -> int:
        """All steps of a unit; returns their number."""
        name, telling = problem.unit.name, self.telling
        telling.begin(name, settings.iterations)
        self.at_once = optimise_within_memory(
            problem,
            learner,
            settings,
            lambda: seeded(self.seed, name, self.model.device),
            lambda done, terms: telling.step(name, done, settings.iterations, terms),
            self.at_once,
            telling.again,
        )
        return settings.iterations

    def _round(self, problem: Problem, own: Own, settings: Reconstruct, rows: Rows) -> None:
        """Closed-form rounding of every layer of a unit, one after the other."""
        unit = problem.unit
        for done, inputs in enumerate(
            layer_by_layer(unit, own, problem.inputs, rows, settings.tokens, self.seed)
        ):
            self.telling.progress(f"{unit.name} closed form", done, len(own))
            round_layer(
                inputs,
                own[inputs.site],
                damping=settings.damping,
                compensate=settings.compensate in ("all", unit.part),
            )
