"""One unit, from its problem to what it leaves in the model: learned now, or taken from the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saqsam.families.record import Model, State
from saqsam.jobs.directory import RunDirectory
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.acceptance import LEARNED, NEAREST, UnitRecord, judging_images, loss_of, outputs_of
from saqsam.reconstruct.gptq import round_layer
from saqsam.reconstruct.layerwise import layer_by_layer
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.memory import optimise_within_memory
from saqsam.reconstruct.progress import ProgressLog
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.snapshot import learned, restore_learned
from saqsam.reconstruct.units import UnitQuantizers

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
        progress_log: is told of every step.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        seed: int,
        directory: RunDirectory | None,
        progress_log: ProgressLog,
    ) -> None:
        self.model, self.seed = model, seed
        self.directory, self.progress_log = directory, progress_log
        self.together = batch

    def solve(
        self, problem: Problem, quantizers: UnitQuantizers, settings: Reconstruct, rows: Rows = ()
    ) -> Solved:
        """Learn a unit, or take it from the run directory if it was finished before.

        Args:
            problem: its unit runs float but for its own quantizers and those of finished units.
            quantizers: the unit's quantizers.
            settings: what it is learned with.
            rows: what enters each layer in the float model, by image; for closed-form rounding.
        """
        part = self.stored(problem.unit.name)
        if part is not None:
            return Solved(self.restore(part, quantizers), {})
        solved = self.learn(problem, quantizers, settings, rows)
        self.keep(solved.record, quantizers)
        return solved

    def stored(self, name: str) -> Part | None:
        """What the run directory has of a unit; ``None`` if it has to be learned."""
        return None if self.directory is None else self.directory.load(name)

    def restore(self, part: Part, quantizers: UnitQuantizers) -> UnitRecord:
        """Put a stored unit into the model."""
        tensors, fields = part
        restore_learned(self.model, quantizers, tensors)
        record = UnitRecord(**fields)
        self.together = min(self.together, record.at_once or self.together)
        return record

    def keep(self, record: UnitRecord, quantizers: UnitQuantizers) -> None:
        """Tell of a finished unit, and store it."""
        if self.directory is not None:
            self.directory.save(record.unit, learned(self.model, quantizers), record.to_dict())
        self.progress_log.finished(record)

    def learn(
        self, problem: Problem, quantizers: UnitQuantizers, settings: Reconstruct, rows: Rows
    ) -> Solved:
        """Learn a unit; nearest rounding is kept if the judging images do not profit."""
        images = judging_images(len(problem.inputs))
        before = loss_of(problem, outputs_of(problem, images))
        learner = Learner(self.model, quantizers, settings)
        if settings.rounding == "gptq":
            self._round(problem, quantizers, settings, rows)
        steps = self.optimise(problem, learner, settings) if learner.learns else 0
        learner.finish()
        outputs = outputs_of(problem, images)
        after, kept = loss_of(problem, outputs), LEARNED
        if not after <= before:
            learner.restore()
            outputs, kept = {}, NEAREST
        record = UnitRecord(problem.unit.name, steps, before, after, kept, self.together, len(images))
        return Solved(record, outputs)

    def optimise(self, problem: Problem, learner: Learner, settings: Reconstruct) -> int:
        """All steps of a unit; returns their number."""
        name, progress_log = problem.unit.name, self.progress_log
        progress_log.begin(name, settings.iterations)
        self.together = optimise_within_memory(
            problem,
            learner,
            settings,
            lambda: seeded(self.seed, name, self.model.device),
            lambda done, terms: progress_log.step(name, done, settings.iterations, terms),
            self.together,
            progress_log.again,
        )
        return settings.iterations

    def _round(self, problem: Problem, quantizers: UnitQuantizers, settings: Reconstruct, rows: Rows) -> None:
        """Closed-form rounding of every layer of a unit, one after the other."""
        unit = problem.unit
        for done, inputs in enumerate(
            layer_by_layer(unit, quantizers, problem.inputs, rows, settings.tokens, self.seed)
        ):
            self.progress_log.progress(f"{unit.name} closed form", done, len(quantizers))
            round_layer(
                inputs,
                quantizers[inputs.site],
                damping=settings.damping,
                compensate=settings.compensate in ("all", unit.part),
            )
