"""How long learning takes and how much memory and disk it needs, said before it begins.

Everything is tried out on one image: a forward pass of each unit, and one step where it learns in steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

from saqsam.families.record import Model, State
from saqsam.models.sites import WEIGHT
from saqsam.reconstruct.layerwise import LayerInputs, layer_of, rows_of
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.measure import tried
from saqsam.reconstruct.plan import How, Step
from saqsam.reconstruct.units import UnitQuantizers

_T = TypeVar("_T")
RUNTIME = 30_000_000
"""Bytes that PyTorch's threads and allocator take when they begin to work; measured on the shipped model."""
MATRICES, WORKED = 2, 6
"""Matrices of closed-form rounding: of each layer, and besides while it is at work on one; see ``gptq``."""
LINE = 150
"""Bytes of one step in the log of losses."""


@dataclass(frozen=True)
class Cost:
    """Seconds one unit will take.

    Attributes:
        steps: learning steps.
        step: seconds of one.
        passes: seconds of all passes outside the steps.
    """

    steps: int
    step: float
    passes: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.steps * self.step + self.passes


class Held(NamedTuple):
    """Bytes at one moment.

    Attributes:
        activations: of all images.
        graph: of a step, if all of its images are worked through together.
        learned: what one unit learns, with its optimiser, or its matrices in closed form.
    """

    activations: int
    graph: int
    learned: int


@dataclass
class Estimate:
    """What lies ahead; units are added in the order in which they will be learned.

    Attributes:
        model: attached, its weights float.
        batch: images of a step.
        images: calibration images.
        image: the one on which units are tried.
        generator: of the coins of steps that are tried out.
        finished: names of units that need not be learned any more, and of other finished parts.
        units: what each unit that learns will take.
        codes: bytes that finished units take on the disk.
        together: images of a step that are worked through together, if not all of them.
        held: what is held at each moment that was tried out.
    """

    model: Model
    batch: int
    images: int
    image: int
    generator: torch.Generator
    finished: Set[str] = frozenset()
    units: dict[str, Cost] = field(default_factory=dict)
    codes: int = 0
    together: int | None = None
    held: list[Held] = field(default_factory=list)

    def step(self, step: Step, quantizers: UnitQuantizers, state: State, *, paths: int, beside: int) -> State:
        """Try what is done with a unit on one image; returns the state after it.

        Args:
            step: what is done.
            quantizers: those of its unit.
            state: what enters it.
            paths: different states of each image that enter it: 1 as long as nothing is quantized, else 2.
            beside: bytes of activations of one image that are held for later.
        """
        held = beside + paths * size(state)
        if step.unit.name in self.finished:
            after, seconds = timed(lambda: step.unit.run(state))
            self.units[step.unit.name] = Cost(0, 0.0, 2 * self.images * seconds)
            self._held(held + size(after), 0, 0)
            return after
        if step.how is How.CARRIED:
            after = step.unit.run(state)
            self._held(held + 2 * size(after), 0, 0)  # float and quantized outputs
            return after
        if step.how is How.CLOSED_FORM:
            return self._one_pass(step, quantizers, state, held, beside + size(state))
        if step.how is How.LAYERS:
            return self._layers(step, quantizers, state, held)
        if step.how is How.TUNED:
            return self._tuned(step, quantizers, state)
        return self._steps(step, quantizers, state, held)

    def _one_pass(
        self, step: Step, quantizers: UnitQuantizers, state: State, at_first: int, behind: int
    ) -> State:
        unit = step.unit
        after, seconds = timed(lambda: unit.run(state))
        self.units[unit.name] = Cost(0, 0.0, 3 * self.images * seconds)
        self.codes += sum(layer_of(unit, q).weight.numel() for s, q in quantizers.items() if s.role == WEIGHT)
        # Of each image float outputs take the place of float inputs; then come the quantized ones.
        self._held(max(at_first, behind + 2 * size(after)), 0, self._moments(step, quantizers))
        return after

    def _steps(self, step: Step, quantizers: UnitQuantizers, state: State, held: int) -> State:
        unit, settings = step.unit, step.settings
        passes = 2
        if step.sees_layers:
            _, rows = rows_of(unit, quantizers, state, settings.tokens, 0, 0)
            passes += len(rows)
            held += sum(row.nbytes for row in rows.values())
            self._held(held, 0, self._moments(step, quantizers))
        seen = self.image if step.prompt_aware else None
        once = tried(self.model, unit, quantizers, state, settings, self.generator, view=seen)
        view = 0 if seen is None else size((unit.seen(once.after, [seen]),))
        learner = Learner(self.model, quantizers, settings)
        steps = settings.iterations if learner.learns else 0
        # A step is about three passes: forward, and backward to inputs and to what is learned.
        per_image = once.seconds / (3 if learner.learns else 1)
        looked_at = self._batch * self._row_share(step, state)
        self.units[unit.name] = Cost(steps, looked_at * once.seconds, passes * self.images * per_image)
        held += size(once.after) + view
        self._held(held, round(looked_at * once.graph), once.learned)
        self._held(held + size(once.after), 0, 0)  # outputs of the finished unit come when its steps are over
        self.codes += sum(layer.weight.numel() for layer in learner.layers.values())
        return once.after

    def _row_share(self, step: Step, state: State) -> float:
        """Of a block's rows of tokens, those that a step looks at."""
        if step.unit.rows is None:
            return 1.0
        return 1 / len(step.unit.rows.split(state[0].shape[1], step.settings.row_share))

    def fitting_together(self, memory: float) -> int:
        """Images of a step to work through together, so that all fits in ``memory`` bytes."""
        together = self.batch
        for activations, graph, learned in self.held:
            room = memory - activations - learned
            if graph > max(room, 0.0):
                together = min(together, max(1, int(room * self._batch / graph)))
        return together

    @property
    def peak(self) -> int:
        """Bytes at one moment at most."""
        at_work = (states + round(self._share * graph) + learned for states, graph, learned in self.held)
        return max(at_work) + RUNTIME

    @property
    def _share(self) -> float:
        """Of a step's images, those worked through together."""
        return 1.0 if self.together is None else min(1.0, self.together / self._batch)

    def _tuned(self, step: Step, quantizers: UnitQuantizers, state: State) -> State:
        unit, settings = step.unit, step.settings
        once = tried(self.model, unit, quantizers, state, settings, self.generator, view=self.image)
        held = size(state) + size(once.after) + size((unit.seen(once.after, [self.image]),))
        self.units[unit.name] = Cost(settings.iterations, self._batch * once.seconds, 8 * once.seconds / 3)
        self._held(held, self._batch * once.graph, once.learned)
        return once.after

    def _layers(self, step: Step, quantizers: UnitQuantizers, state: State, beside: int) -> State:
        unit, settings = step.unit, step.settings
        (after, rows), seconds = timed(lambda: rows_of(unit, quantizers, state, settings.tokens, 0, 0))
        held = beside + size(after) + sum(row.nbytes for row in rows.values())
        # Beside one pass to see what enters each layer, one on each path for the unit.
        seconds *= 1 + 2 / len(rows)
        for site, quantizer in quantizers.items():
            row = rows.get(site.name)
            if row is None:
                continue
            layer = layer_of(unit, quantizer)
            problem = LayerInputs(site, layer, [row], [row]).as_problem(targets_from_quantized=False)
            if problem.unit.name in self.finished:
                self.units[problem.unit.name] = Cost(0, 0.0, self.images * seconds)
                continue
            mine = problem.unit.quantizers(quantizers)
            once = tried(self.model, problem.unit, mine, (row,), settings, self.generator, view=None)
            cost = Cost(settings.iterations, self._batch * once.seconds, self.images * seconds)
            self.units[problem.unit.name] = cost
            self._held(held + row.nbytes + size(once.after), self._batch * once.graph, once.learned)
            self.codes += layer.weight.numel()
        self._held(held + size(after), 0, 0)
        return after

    def _moments(self, step: Step, quantizers: UnitQuantizers) -> int:
        """Bytes of what closed-form rounding of a unit knows of its layers' inputs, and works with."""
        layers = [
            layer_of(step.unit, quantizer) for site, quantizer in quantizers.items() if site.role == WEIGHT
        ]
        squares = [8 * layer.weight[0].numel() ** 2 for layer in layers]
        known = sum(squares) if step.how is How.CLOSED_FORM else max(squares)
        return MATRICES * known + WORKED * max(squares)

    @property
    def _batch(self) -> int:
        return min(self.batch, self.images)

    def _held(self, one_image: int, graph: int, learned: int) -> None:
        self.held.append(Held(self.images * one_image, graph, learned))

    @property
    def activations(self) -> int:
        """Bytes of activations at one moment at most."""
        return max(moment.activations for moment in self.held)

    @property
    def seconds(self) -> float:
        """Time for everything."""
        return sum(cost.seconds for cost in self.units.values())

    def seconds_left(self, name: str, done: int, pace: float = 1.0) -> float:
        """Time for the rest of a unit and all later ones.

        Args:
            name: the unit being learned.
            done: its steps so far.
            pace: how much longer steps really took so far than they were tried out to take.
        """
        names = list(self.units)
        unit = self.units[name]
        later = sum(self.units[each].seconds for each in names[names.index(name) + 1 :])
        return pace * (unit.seconds - done * unit.step + later)

    def said(self, budget: float, stored: int | None) -> str:
        """All of it in words.

        Args:
            budget: bytes of activations that may lie in memory.
            stored: bytes that the run directory has already; ``None`` without one.
        """
        over = max(0.0, self.activations - budget)
        model = sum(parameter.nbytes for parameter in self.model.parameters())
        step = self._share * max(moment.graph for moment in self.held)
        learned = max(moment.learned for moment in self.held)
        memory = (
            f"at most {_gb(self.peak - over)} of memory beside the model's {_gb(model)}: activations "
            f"{_gb(min(self.activations, budget))}, a step {_gb(step)}, "
            f"what a unit learns {_gb(learned)}"
        )
        disk = self.disk(budget) + stored if stored is not None else over
        place = "temporary files" if stored is None else "run directory"
        return memory + (f"; {place} up to {_gb(disk)}" if disk else "")

    def disk(self, budget: float) -> float:
        """Bytes that will be added to a run directory, most of them if activations go beyond ``budget``."""
        steps = sum(cost.steps for cost in self.units.values())
        return max(0.0, self.activations - budget) + self.codes + LINE * steps


def timed(action: Callable[[], _T]) -> tuple[_T, float]:
    """A result and the seconds it took."""
    begin = time.perf_counter()
    result = action()
    return result, time.perf_counter() - begin


def size(state: State) -> int:
    """Bytes of a state; views count with the storage they have, if that is smaller."""
    return sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in state)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
