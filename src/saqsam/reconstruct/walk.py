"""All units in order, each learned on what the finished ones before it really give.

Activations of all calibration images are carried from unit to unit. Outside of learning, each unit runs once
for each image on the float path (its targets) and once on the quantized one (what the next unit is given),
whatever the number of units. Besides, one image passes through all units for the estimate, and a few tell how
good nearest rounding is (``judge.JUDGES``, twice if it is kept). Closed-form rounding learns from passes
instead of steps: one more for each image, or one for each layer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from transformers import SamModel

from saqsam.calibration import CalibrationImage, pixels_of
from saqsam.errors import OutOfMemory
from saqsam.families.registry import encoder_of
from saqsam.jobs.directory import RunDirectory
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT, Site
from saqsam.quantizer import Quantizer
from saqsam.recipe import Recipe
from saqsam.reconstruct.at_once import round_at_once
from saqsam.reconstruct.cache import Cache, opened_cache
from saqsam.reconstruct.estimate import Estimate, size
from saqsam.reconstruct.judge import UnitRecord
from saqsam.reconstruct.layerwise import layer_by_layer, rows_of
from saqsam.reconstruct.loss import Problem, balanced
from saqsam.reconstruct.machine import usable_memory
from saqsam.reconstruct.memory import is_out_of_memory
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.replace import replaced, unquantized
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.solve import Own, Rows, Solver
from saqsam.reconstruct.telling import Listener, Progress, Telling, nobody
from saqsam.reconstruct.units import State, Unit, decoder_units, encoder_units
from saqsam.reconstruct.whole import masks_and_scores, settings_for, whole_model
from saqsam.reconstruct.words import in_words

logger = logging.getLogger("saqsam")


@torch.no_grad()
def reconstruct(
    model: SamModel,
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
        walk = Walk(model, recipe, images, progress, directory, cache, listener)
        try:
            walk.estimate_all()
            return [*walk.encoder(), *walk.decoder(), *walk.whole()]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"reconstruct: memory ran out; learning on {len(images)} images takes {walk.said()}; "
                "set calibration.images or reconstruct.prompts lower, or give a --cache-gb"
            ) from error


class Walk:
    """Carries the states of all images through the units; see ``reconstruct`` for the arguments."""

    def __init__(
        self,
        model: SamModel,
        recipe: Recipe,
        images: Sequence[CalibrationImage],
        progress: Progress,
        directory: RunDirectory | None,
        cache: Cache,
        listener: Listener = nobody,
    ) -> None:
        self.cache, self.directory = cache, directory
        self.model, self.settings = model, recipe.reconstruct
        self.seed = recipe.calibration.seed
        self.quantizers = all_quantizers(model)
        self.pending: set[Quantizer] = set(self.quantizers.values())
        asked = []
        encoder = encoder_of(model)
        patches = cache.new()
        for image in images:
            pixels, frame = pixels_of(model, image)
            asked.append((image.prompts, frame))
            patches.append((encoder.start(pixels.to(model.device, model.dtype)),))
        generator = seeded(self.seed, "prompts")
        count, clicks = self.settings.prompts, self.settings.clicks
        self.prompting = Prompting.of(model, asked, count, generator, clicks)
        self.quantized: Sequence[State] = patches
        self.float: Sequence[State] = patches
        self.patches: Sequence[State] = patches if self.settings.whole_iterations else ()
        self.embeddings: Sequence[State] = ()
        self.masks: Sequence[State] = ()
        coins = seeded(self.seed, "estimate", model.device)
        finished = frozenset() if directory is None else directory.finished()
        usual = self.prompting.usual()
        self.estimate = Estimate(model, self.settings, len(images), usual, coins, finished)
        self.telling = Telling(progress, listener, directory, self.estimate)
        self.solver = Solver(model, self.settings, self.seed, directory, self.telling)

    def estimate_all(self) -> None:
        """Time, memory and disk of what lies ahead, tried out on one image; logged."""
        settings, estimate = self.settings, self.estimate
        whole = settings.whole_iterations > 0
        usual = estimate.image
        first = state = self.float[usual]
        beside, paths = 0, 1
        with replaced(unquantized(self.quantizers.values())):
            for unit in encoder_units(self.model, self.prompting, settings.unit):
                state = estimate.unit(unit, self._own(unit), state, paths=paths, beside=beside)
                beside, paths = size(first) if whole else 0, 2
            if whole:
                masks = masks_and_scores(self.model, self.prompting, state[0], [usual])
                beside += size(state) + size((masks,))
            if whole or settings.decoder != "none":
                state = self.prompting.start(state[0], [usual])
                for unit in decoder_units(self.model, self.prompting, settings.token_weight):
                    state = estimate.unit(unit, self._own(unit), state, paths=2, beside=beside)
            if whole:
                unit = whole_model(self.model, self.prompting)
                estimate.whole(unit, self._own(unit), first, settings_for(settings))
        if self.model.device.type == "cpu":
            self.solver.at_once = estimate.together = estimate.at_once(usable_memory())
        units = len(estimate.units.keys() - estimate.finished)
        logger.info(
            "reconstruct: %d units on %d images, roughly %s; %s",
            *(units, len(self.float), in_words(estimate.seconds), self.said()),
        )
        if self.solver.at_once < settings.batch:
            logger.warning(
                "reconstruct: %d of a step's %d images are worked through at once, more would not fit",
                *(self.solver.at_once, settings.batch),
            )

    def said(self) -> str:
        """Memory and disk in words."""
        stored = None if self.directory is None else self.directory.bytes()
        return self.estimate.said(self.cache.budget, stored)

    def _own(self, unit: Unit) -> dict[Site, Quantizer]:
        return unit.quantizers(self.quantizers)

    def encoder(self) -> Iterator[UnitRecord]:
        """Learn the encoder's units and the neck; afterwards the states are embeddings."""
        for unit in encoder_units(self.model, self.prompting, self.settings.unit):
            yield from self._unit(unit, self.settings.encoder)

    def decoder(self) -> Iterator[UnitRecord]:
        """Learn the decoder's units; both paths begin at what the encoder's units left."""
        if self.settings.whole_iterations:
            self._keep_targets()
        elif self.settings.decoder == "none":
            return
        self.quantized, self.float = self._started(self.quantized), self._started(self.float)
        for unit in decoder_units(self.model, self.prompting, self.settings.token_weight):
            yield from self._unit(unit, self.settings.decoder)

    def _started(self, embeddings: Sequence[State]) -> Sequence[State]:
        """The decoder's states before its first layer."""
        return self.cache.keep(
            self.prompting.start(embedding, [image]) for image, (embedding,) in enumerate(embeddings)
        )

    def _keep_targets(self) -> None:
        """Embeddings and masks of the float model, while its decoder is still float."""
        self.embeddings = self.float
        with replaced(unquantized(self.pending)):
            self.masks = self.cache.keep(
                (masks_and_scores(self.model, self.prompting, embedding, [image]),)
                for image, (embedding,) in enumerate(self.embeddings)
            )

    def whole(self) -> Iterator[UnitRecord]:
        """Tune all parts to one another, if the recipe says so."""
        if not self.settings.whole_iterations:
            return
        self.quantized = self.float = ()  # the decoder's last states, which nothing needs any more
        self.solver.settings = settings_for(self.settings)
        unit = whole_model(self.model, self.prompting)
        weights = balanced(
            unit, self.embeddings, self.masks, self.settings.prompt_weight, self.settings.local_weight
        )
        problem = Problem(unit, self.patches, self.patches, self.embeddings, self.masks, weights)
        yield self.solver.solve(problem, self._own(unit)).record

    def _unit(self, unit: Unit, objective: str) -> Iterator[UnitRecord]:
        own = self._own(unit)
        if objective != "none" and self.settings.passes == "unit":
            yield self._round_at_once(unit, own)
            return
        references = self.quantized if self.settings.targets == "quantized-input" else self.float
        views = None
        with replaced(unquantized(self.pending)):
            targets, rows = self._targets(unit, own, references, objective)
            if objective == "par":
                views = self.cache.keep((unit.view(state, [image]),) for image, state in enumerate(targets))
        self.pending -= self._switched_on(own)
        known: Mapping[int, State] = {}
        with replaced(unquantized(self.pending)):
            if objective != "none" and self.settings.unit == "layer":
                yield from self._layers(unit, own, rows)
            elif objective != "none":
                weights = balanced(
                    unit, targets, views, self.settings.prompt_weight, self.settings.local_weight
                )
                problem = Problem(unit, self.quantized, references, targets, views, weights)
                solved = self.solver.solve(problem, own, rows)
                known = solved.outputs
                yield solved.record
            self.quantized = self.cache.keep(
                known[image] if image in known else unit.run(state)
                for image, state in enumerate(self.quantized)
            )
        self.float = targets

    def _targets(
        self, unit: Unit, own: Own, references: Sequence[State], objective: str
    ) -> tuple[Sequence[State], Rows]:
        """What leaves the float unit, of each image, and what enters its layers, where that is needed."""
        settings = self.settings
        if objective == "none" or (settings.unit != "layer" and settings.rounding != "gptq"):
            return self.cache.keep(unit.run(state) for state in references), ()
        targets, rows = self.cache.new(), []
        for image, state in enumerate(references):
            target, seen = rows_of(unit, own, state, settings.tokens, self.seed, image)
            targets.append(target)
            rows.append(seen)
        return targets, rows

    def _round_at_once(self, unit: Unit, own: dict[Site, Quantizer]) -> UnitRecord:
        """Closed form from one pass; see ``at_once``."""
        later = self.pending - set(own.values())
        part = self.solver.stored(unit.name)
        if part is not None:
            with replaced(unquantized(self.pending)):
                self.float = self.cache.keep(unit.run(state) for state in self.float)
            record = self.solver.restore(part, own)
            with replaced(unquantized(later)):
                self.quantized = self.cache.keep(unit.run(state) for state in self.quantized)
        else:

            def progress(done: int, total: int) -> None:
                self.telling.progress(f"{unit.name} closed form", done, total)

            states = (self.quantized, self.float)
            with replaced(unquantized(later)):
                done = round_at_once(unit, own, *states, self.settings, self.seed, progress, self.cache.new)
            self.quantized, self.float = done.outputs, done.targets
            record = UnitRecord(
                unit.name, 0, done.before, done.after, done.kept, self.solver.at_once, judged=len(self.float)
            )
            self.solver.keep(record, own)
        self.pending = later
        return record

    def _layers(self, unit: Unit, own: dict[Site, Quantizer], rows: Rows) -> Iterator[UnitRecord]:
        settings = self.settings
        for inputs in layer_by_layer(unit, own, self.quantized, rows, settings.tokens, self.seed):
            problem = inputs.as_problem(settings.targets == "quantized-input")
            yield self.solver.solve(problem, problem.unit.quantizers(own)).record

    def _switched_on(self, own: Own) -> set[Quantizer]:
        """What a finished unit quantizes as far as later ones see; all of it, but for weight-only methods."""
        weights_only = self.settings.activations == "float"
        return {quantizer for site, quantizer in own.items() if site.role == WEIGHT or not weights_only}
