"""All units in order, each learned on what the finished ones before it really give.

Activations of all calibration images are carried from unit to unit. Outside of learning, each unit runs once
for each image on the float path (its targets) and once on the quantized one (what the next unit is given),
whatever the number of units. Besides, one image passes through all units for the estimate, and a few tell how
good nearest rounding is (``acceptance.MOST_JUDGING``, twice if it is kept). Closed-form rounding learns from
passes instead of steps: one more for each image, or one for each layer.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import OutOfMemory
from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, State
from saqsam.families.registry import encoder_of
from saqsam.freed_memory import give_back_freed_memory
from saqsam.images.frame import Frame
from saqsam.jobs.directory import RunDirectory
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.modules.quantizer import Quantizer
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Recipe, Reconstruct
from saqsam.reconstruct.acceptance import UnitRecord
from saqsam.reconstruct.cache import Cache, Kept, opened_cache
from saqsam.reconstruct.durations import in_words
from saqsam.reconstruct.end_to_end import masks_and_scores
from saqsam.reconstruct.estimate import Estimate, size
from saqsam.reconstruct.layerwise import layer_by_layer, rows_of
from saqsam.reconstruct.loss import Problem, balanced
from saqsam.reconstruct.machine import usable_memory
from saqsam.reconstruct.memory import is_out_of_memory
from saqsam.reconstruct.one_pass import round_in_one_pass
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.plan import How, Plan, Step
from saqsam.reconstruct.progress import Listener, Progress, ProgressLog, nobody
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.unit_solver import Rows, Solver
from saqsam.reconstruct.units import Unit, UnitQuantizers

logger = logging.getLogger("saqsam")

Asked = tuple[Prompts, Frame]
"""Prompts of one image, and where it lies in the model's input."""


@torch.no_grad()
def reconstruct(
    model: Model,
    recipe: Recipe,
    images: Sequence[CalibrationImage],
    progress: Progress = lambda stage, done, total: None,
    directory: RunDirectory | None = None,
    cache_gb: float | None = None,
    listener: Listener = nobody,
) -> list[UnitRecord]:
    """Learn rounding and scales of an attached model whose quantizers all have ranges, in place.

    Afterwards every weight of a learned unit lies on its grid; freezing does not change it again.

    Args:
        model: attached, every quantizer in the stage FAKE, weights still float.
        recipe: its section ``reconstruct`` says what to learn.
        images: calibration images, each with at least one prompt.
        progress: called with the unit's name, steps done and steps in total.
        directory: keeps finished units, and has those of an interrupted run.
        cache_gb: see ``Cache``; in GB, ``None`` holds all activations in memory.
        listener: see ``Listener``.

    Raises:
        NumericalError: a loss became NaN or infinite; the unit is named.
        OutOfMemory: memory is short even for one image at a time.
        OutOfDisk: the disk is full.
    """
    if not recipe.reconstruct.learns:
        return []
    budget = None if cache_gb is None else cache_gb * 1e9
    with opened_cache(budget, None if directory is None else directory.path) as cache:
        asked, patches = begin(model, images, cache)
        walk = Walk(model, recipe, asked, progress, directory, cache, listener)
        try:
            walk.estimate_all(patches[walk.estimate.image])
            records = walk.records(patches)
            del patches  # the walk lets go of them as soon as it can
            return list(records)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"reconstruct: memory ran out; learning on {len(images)} images takes {walk.said()}; "
                "set calibration.images or reconstruct.prompts lower, or give a --cache-gb"
            ) from error


@torch.no_grad()
def looked_ahead(model: Model, recipe: Recipe, image: CalibrationImage, count: int) -> Estimate:
    """What learning on ``count`` images like this one will take; see ``reconstruct`` for the model."""
    cache = Cache()
    asked, patches = begin(model, [image], cache)
    walk = Walk(model, recipe, asked, lambda *_: None, None, cache)
    walk.estimate.images = count
    walk.try_out(patches[0])
    return walk.estimate


def begin(model: Model, images: Sequence[CalibrationImage], cache: Cache) -> tuple[list[Asked], Kept]:
    """What is asked of each image, and the tokens that enter the encoder's first block."""
    encoder = encoder_of(model)
    asked, patches = [], cache.new()
    for image in images:
        pixels, frame = pixels_of(model, image)
        asked.append((image.prompts, frame))
        patches.append((encoder.start(pixels.to(model.device, model.dtype)),))
    return asked, patches


@dataclass(frozen=True)
class Reached:
    """How far the states of all images have come.

    Attributes:
        quantized: of the quantized path, one for each image.
        float: of the float path.
        pending: quantizers that take no part in the quantized path yet.
    """

    quantized: Kept
    float: Kept
    pending: frozenset[Quantizer]


class Walk:
    """Carries the states of all images through the units; see ``reconstruct`` for the arguments."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        asked: Sequence[Asked],
        progress: Progress,
        directory: RunDirectory | None,
        cache: Cache,
        listener: Listener = nobody,
    ) -> None:
        self.model, self.cache, self.directory = model, cache, directory
        self.settings, self.seed = recipe.reconstruct, recipe.calibration.seed
        self.quantizers = all_quantizers(model)
        generator = seeded(self.seed, "prompts")
        count, clicks = self.settings.prompts, self.settings.clicks
        self.prompting = Prompting.of(model, asked, count, generator, clicks)
        self.plan = Plan.of(model, self.prompting, self.settings)
        coins = seeded(self.seed, "estimate", model.device)
        finished = frozenset() if directory is None else directory.finished()
        usual, batch = self.prompting.usual(), self.settings.batch
        self.estimate = Estimate(model, batch, len(asked), usual, coins, finished)
        self.progress_log = ProgressLog(progress, listener, directory, self.estimate)
        self.solver = Solver(model, batch, self.seed, directory, self.progress_log)

    def estimate_all(self, patches: State) -> None:
        """Time, memory and disk of what lies ahead, tried out on one image's ``patches``; logged."""
        self.try_out(patches)
        estimate = self.estimate
        units = len(estimate.units.keys() - estimate.finished)
        logger.info(
            "reconstruct: %d units on %d images, roughly %s; %s",
            *(units, estimate.images, in_words(estimate.seconds), self.said()),
        )
        if self.solver.together < self.settings.batch:
            logger.warning(
                "reconstruct: %d of a step's %d images are worked through at once, more would not fit",
                *(self.solver.together, self.settings.batch),
            )

    def try_out(self, patches: State) -> None:
        """Every step of the plan on one image, for the estimate."""
        estimate, plan = self.estimate, self.plan
        usual, state = estimate.image, patches
        beside, paths = 0, 1
        with overridden(unquantized(self.quantizers.values())):
            for step in plan.encoder:
                state = estimate.step(step, self._quantizers_of(step.unit), state, paths=paths, beside=beside)
                beside, paths = 0 if plan.tuning is None else size(patches), 2
            if plan.tuning is not None:
                masks = masks_and_scores(self.model, self.prompting, Embedding.of(state), [usual])
                beside += size(state) + size((masks,))
            if plan.decoder:
                state = self.prompting.start(Embedding.of(state), [usual])
            for step in plan.decoder:
                state = estimate.step(step, self._quantizers_of(step.unit), state, paths=2, beside=beside)
            if plan.tuning is not None:
                estimate.step(plan.tuning, self._quantizers_of(plan.tuning.unit), patches, paths=2, beside=0)
        if self.model.device.type == "cpu":
            self.solver.together = estimate.together = estimate.fitting_together(usable_memory())

    def said(self) -> str:
        """Memory and disk in words."""
        stored = None if self.directory is None else self.directory.bytes()
        return self.estimate.said(self.cache.budget, stored)

    def records(self, start: Kept) -> Iterator[UnitRecord]:
        """Do all of the plan: encoder, then decoder from what the encoder left, then all parts together."""
        tuning = self.plan.tuning
        reached = Reached(start, start, frozenset(self.quantizers.values()))
        patches: Sequence[State] = () if tuning is None else start
        del start  # what nobody asks for any more leaves memory
        for step in self.plan.encoder:
            reached = yield from self._unit(step, reached)
        embeddings: Sequence[State] = ()
        masks: Sequence[State] = ()
        if tuning is not None:
            embeddings, masks = reached.float, self._masks(reached)
        if self.plan.decoder:
            quantized, floating = self._started(reached.quantized), self._started(reached.float)
            reached = Reached(quantized, floating, reached.pending)
            del quantized, floating
        for step in self.plan.decoder:
            reached = yield from self._unit(step, reached)
        del reached
        if tuning is not None:
            yield self._tune(tuning, patches, embeddings, masks)

    def _quantizers_of(self, unit: Unit) -> UnitQuantizers:
        return unit.quantizers(self.quantizers)

    def _started(self, embeddings: Sequence[State]) -> Kept:
        """The decoder's states before its first layer."""
        return self.cache.keep(
            self.prompting.start(Embedding.of(state), [image]) for image, state in enumerate(embeddings)
        )

    def _masks(self, reached: Reached) -> Sequence[State]:
        """Masks of the float model, while its decoder is still float."""
        with overridden(unquantized(reached.pending)):
            return self.cache.keep(
                (masks_and_scores(self.model, self.prompting, Embedding.of(state), [image]),)
                for image, state in enumerate(reached.float)
            )

    def _tune(
        self, step: Step, patches: Sequence[State], embeddings: Sequence[State], masks: Sequence[State]
    ) -> UnitRecord:
        settings = step.settings
        weights = balanced(step.unit, embeddings, masks, settings.prompt_weight, settings.local_weight)
        problem = Problem(step.unit, patches, patches, embeddings, masks, weights)
        return self.solver.solve(problem, self._quantizers_of(step.unit), settings).record

    def _unit(self, step: Step, reached: Reached) -> Generator[UnitRecord, None, Reached]:
        """Do one step: yields a record of each part that was learned, returns where the next one begins."""
        do = self._one_pass if step.how is How.CLOSED_FORM else self._passes
        reached = yield from do(step, self._quantizers_of(step.unit), reached)
        give_back_freed_memory()  # what is kept lies between blocks that the unit needed no longer
        return reached

    def _passes(
        self, step: Step, quantizers: UnitQuantizers, reached: Reached
    ) -> Generator[UnitRecord, None, Reached]:
        """A float pass for the targets, learning if there is any, a quantized pass for the next step."""
        unit, settings = step.unit, step.settings
        references = reached.quantized if settings.targets == "quantized-input" else reached.float
        views = None
        with overridden(unquantized(reached.pending)):
            targets, rows = self._targets(step, quantizers, references)
            if step.prompt_aware:
                views = self.cache.keep((unit.seen(state, [image]),) for image, state in enumerate(targets))
        pending = reached.pending - _switched_on(quantizers, settings)
        known: Mapping[int, State] = {}
        with overridden(unquantized(pending)):
            if step.how is How.LAYERS:
                yield from self._layers(step, quantizers, reached.quantized, rows)
            elif step.how is How.STEPS:
                weights = balanced(unit, targets, views, settings.prompt_weight, settings.local_weight)
                problem = Problem(unit, reached.quantized, references, targets, views, weights)
                solved = self.solver.solve(problem, quantizers, settings, rows)
                known = solved.outputs
                yield solved.record
            quantized = self.cache.keep(
                known[image] if image in known else unit.run(state)
                for image, state in enumerate(reached.quantized)
            )
        return Reached(quantized, targets, pending)

    def _targets(
        self, step: Step, quantizers: UnitQuantizers, references: Sequence[State]
    ) -> tuple[Kept, Rows]:
        """What leaves the float unit, of each image, and what enters its layers, where that is needed."""
        unit = step.unit
        if not step.sees_layers:
            return self.cache.keep(unit.run(state) for state in references), ()
        targets, rows = self.cache.new(), []
        for image, state in enumerate(references):
            target, seen = rows_of(unit, quantizers, state, step.settings.tokens, self.seed, image)
            targets.append(target)
            rows.append(seen)
        return targets, rows

    def _one_pass(
        self, step: Step, quantizers: UnitQuantizers, reached: Reached
    ) -> Generator[UnitRecord, None, Reached]:
        """Closed form from one pass; see ``one_pass``."""
        unit = step.unit
        later = reached.pending - set(quantizers.values())
        part = self.solver.stored(unit.name)
        if part is not None:
            with overridden(unquantized(reached.pending)):
                targets = self.cache.keep(unit.run(state) for state in reached.float)
            record = self.solver.restore(part, quantizers)
            with overridden(unquantized(later)):
                outputs = self.cache.keep(unit.run(state) for state in reached.quantized)
        else:

            def progress(done: int, total: int) -> None:
                self.progress_log.progress(f"{unit.name} closed form", done, total)

            states = (reached.quantized, reached.float)
            with overridden(unquantized(later)):
                done = round_in_one_pass(
                    unit, quantizers, *states, step.settings, self.seed, progress, self.cache.new
                )
            targets, outputs = done.targets, done.outputs
            record = UnitRecord(
                unit.name, 0, done.before, done.after, done.kept, self.solver.together, judged=len(targets)
            )
            self.solver.keep(record, quantizers)
        yield record
        return Reached(outputs, targets, later)

    def _layers(
        self, step: Step, quantizers: UnitQuantizers, quantized: Sequence[State], rows: Rows
    ) -> Iterator[UnitRecord]:
        settings = step.settings
        for inputs in layer_by_layer(step.unit, quantizers, quantized, rows, settings.tokens, self.seed):
            problem = inputs.as_problem(settings.targets == "quantized-input")
            yield self.solver.solve(problem, problem.unit.quantizers(quantizers), settings).record


def _switched_on(quantizers: UnitQuantizers, settings: Reconstruct) -> set[Quantizer]:
    """What a finished unit quantizes as far as later ones see; all of it, but for weight-only methods."""
    weights_only = settings.activations == "float"
    return {quantizer for site, quantizer in quantizers.items() if site.role == WEIGHT or not weights_only}
