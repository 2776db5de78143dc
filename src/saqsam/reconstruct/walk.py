"""All units in order, each learned on what the finished ones before it really give.

Activations of all calibration images are carried from unit to unit, so each unit runs once for each
image and path (float and quantized), whatever the number of units.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibration import CalibrationImage, pixels_of
from saqsam.errors import OutOfMemory
from saqsam.jobs.directory import RunDirectory
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT, Site
from saqsam.quantizer import Quantizer
from saqsam.recipe import Recipe
from saqsam.reconstruct.at_once import round_at_once
from saqsam.reconstruct.estimate import Estimate, in_words
from saqsam.reconstruct.gptq import round_layer
from saqsam.reconstruct.kept import learned, restore_learned
from saqsam.reconstruct.layerwise import layer_by_layer
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem, balanced
from saqsam.reconstruct.memory import is_out_of_memory, optimise_within_memory
from saqsam.reconstruct.optimise import mean_loss
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.replace import replaced, unquantized
from saqsam.reconstruct.units import State, Unit, decoder_units, encoder_units
from saqsam.reconstruct.whole import masks_and_scores, settings_for, whole_model

logger = logging.getLogger("saqsam")
TIMED_STEPS = 5
"""Steps of the first unit after which the remaining time is told."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UnitRecord:
    """What became of one unit.

    Attributes:
        unit: its name.
        steps: optimisation steps.
        before: loss over all calibration images with nearest rounding and calibrated scales.
        after: the same with what was learned, weights on their grids.
        kept: ``learned``, or ``nearest`` where learning made the loss worse.
        at_once: images of a step worked through together, fewer than its batch where memory ran out; 0 where
            nothing was learned in steps.
    """

    unit: str
    steps: int
    before: float
    after: float
    kept: str
    at_once: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@torch.no_grad()
def reconstruct(
    model: SamModel,
    recipe: Recipe,
    images: Sequence[CalibrationImage],
    progress: Progress = lambda stage, done, total: None,
    directory: RunDirectory | None = None,
) -> list[UnitRecord]:
    """Learn rounding and scales of an attached model whose quantizers all have ranges, in place.

    Afterwards every weight of a learned unit lies on its grid; freezing does not change it again.

    Args:
        model: attached, every quantizer in the stage FAKE, weights still float.
        recipe: its section ``reconstruct`` says what to learn.
        images: calibration images, each with at least one prompt.
        progress: called with the unit's name, steps done and steps in total.
        directory: keeps finished units, and has those of an interrupted run.

    Raises:
        NumericalError: a loss became NaN or infinite; the unit is named.
        OutOfMemory: memory is short even for one image at a time.
    """
    if not recipe.reconstruct.learns:
        return []
    walk = Walk(model, recipe, images, progress, directory)
    try:
        walk.estimate_all()
        return [*walk.encoder(), *walk.decoder(), *walk.whole()]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"reconstruct: memory ran out; activations of {len(images)} images take "
            f"{walk.estimate.bytes / 1e9:.2f} GB, and a step on one image its share; "
            "set calibration.images or reconstruct.prompts lower"
        ) from error


def seeded(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the recipe's seed and a name alone, so units can be redone one by one."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Walk:
    """Carries the states of all images through the units; see ``reconstruct`` for the arguments."""

    def __init__(
        self,
        model: SamModel,
        recipe: Recipe,
        images: Sequence[CalibrationImage],
        progress: Progress,
        directory: RunDirectory | None,
    ) -> None:
        self.directory = directory
        self.model, self.settings, self.progress = model, recipe.reconstruct, progress
        self.seed = recipe.calibration.seed
        self.quantizers = all_quantizers(model)
        self.pending: set[Quantizer] = set(self.quantizers.values())
        opened = [pixels_of(model, image) for image in images]
        asked = [(image.prompts, frame) for image, (_, frame) in zip(images, opened, strict=True)]
        generator = seeded(self.seed, "prompts")
        count, clicks = self.settings.prompts, self.settings.clicks
        self.prompting = Prompting.of(model, asked, count, generator, clicks)
        self.patches: list[State] = [(self._patches(pixels),) for pixels, _ in opened]
        self.quantized, self.float = list(self.patches), list(self.patches)
        if not self.settings.whole_iterations:
            self.patches.clear()
        self.embeddings: list[State] = []
        self.masks: list[Tensor] = []
        self.estimate = Estimate(self.settings, len(opened))
        self.at_once = self.settings.batch
        self.told = False
        self.begin = 0.0

    def _patches(self, pixels: Tensor) -> Tensor:
        """What the first block of the encoder is given."""
        encoder = self.model.vision_encoder
        tokens: Tensor = encoder.patch_embed(pixels.to(self.model.device, self.model.dtype))
        return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed

    def estimate_all(self) -> None:
        """Time and memory of what lies ahead, measured on one image; logged."""
        with replaced(unquantized(self.quantizers.values())):
            units = encoder_units(self.model, self.prompting, self.settings.unit)
            (embedding,) = self.estimate.measure(units, self.float[0])
            decoder = decoder_units(self.model, self.prompting, self.settings.token_weight)
            self.estimate.measure(decoder, self.prompting.start(embedding, [0]))
        logger.info(
            "reconstruct: %d units of %d steps on %d images, %.2f GB of activations",
            len(self.estimate.forward),
            self.settings.iterations,
            len(self.float),
            self.estimate.bytes / 1e9,
        )

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
        self.quantized = [self.prompting.start(x, [image]) for image, (x,) in enumerate(self.quantized)]
        self.float = [self.prompting.start(x, [image]) for image, (x,) in enumerate(self.float)]
        for unit in decoder_units(self.model, self.prompting, self.settings.token_weight):
            yield from self._unit(unit, self.settings.decoder)

    def _keep_targets(self) -> None:
        """Embeddings and masks of the float model, while its decoder is still float."""
        self.embeddings = list(self.float)
        with replaced(unquantized(self.pending)):
            self.masks = [
                masks_and_scores(self.model, self.prompting, embedding, [image])
                for image, (embedding,) in enumerate(self.embeddings)
            ]

    def whole(self) -> Iterator[UnitRecord]:
        """Tune all parts to one another, if the recipe says so."""
        if not self.settings.whole_iterations:
            return
        self.settings = settings_for(self.settings)
        unit = whole_model(self.model, self.prompting)
        weights = balanced(
            unit, self.embeddings, self.masks, self.settings.prompt_weight, self.settings.local_weight
        )
        problem = Problem(unit, self.patches, self.patches, self.embeddings, self.masks, weights)
        yield self._learn(problem, unit.quantizers(self.quantizers))

    def _unit(self, unit: Unit, objective: str) -> Iterator[UnitRecord]:
        own = unit.quantizers(self.quantizers)
        if objective != "none" and self.settings.passes == "unit":
            yield self._round_at_once(unit, own)
            return
        references = self.quantized if self.settings.targets == "quantized-input" else self.float
        views = None
        with replaced(unquantized(self.pending)):
            targets = [unit.run(state) for state in references]
            if objective == "par":
                views = [unit.view(state, [image]) for image, state in enumerate(targets)]
        self.pending -= self._switched_on(own)
        with replaced(unquantized(self.pending)):
            if objective != "none" and self.settings.unit == "layer":
                yield from self._layers(unit, own, references)
            elif objective != "none":
                weights = balanced(
                    unit, targets, views, self.settings.prompt_weight, self.settings.local_weight
                )
                yield self._learn(Problem(unit, self.quantized, references, targets, views, weights), own)
            self.quantized = [unit.run(state) for state in self.quantized]
        self.float = targets

    def _round_at_once(self, unit: Unit, own: dict[Site, Quantizer]) -> UnitRecord:
        """Closed form from one pass; see ``at_once``."""
        finished = None if self.directory is None else self.directory.load(unit.name)
        later = self.pending - set(own.values())
        if finished is not None:
            with replaced(unquantized(self.pending)):
                self.float = [unit.run(state) for state in self.float]
            tensors, fields = finished
            restore_learned(self.model, own, tensors)
            with replaced(unquantized(later)):
                self.quantized = [unit.run(state) for state in self.quantized]
            self.pending = later
            return UnitRecord(**fields)

        def progress(done: int, total: int) -> None:
            self.progress(f"{unit.name} closed form", done, total)

        states = (self.quantized, self.float)
        with replaced(unquantized(later)):
            done = round_at_once(unit, own, *states, self.settings, self.seed, progress)
        self.pending, self.quantized, self.float = later, done.outputs, done.targets
        record = UnitRecord(unit.name, 0, done.before, done.after, done.kept)
        told = (unit.name, done.before, done.after, done.kept)
        logger.info("%s: loss %.4g before, %.4g after, kept: %s", *told)
        if self.directory is not None:
            self.directory.save(unit.name, learned(self.model, own), record.to_dict())
        return record

    def _layers(
        self, unit: Unit, own: dict[Site, Quantizer], references: list[State]
    ) -> Iterator[UnitRecord]:
        settings = self.settings
        arguments = (own, self.quantized, references, settings.tokens, self.seed)
        for inputs in layer_by_layer(unit, *arguments):
            problem = inputs.as_problem(settings.targets == "quantized-input")
            yield self._learn(problem, problem.unit.quantizers(own))

    def _switched_on(self, own: dict[Site, Quantizer]) -> set[Quantizer]:
        """What a finished unit quantizes as far as later ones see; all of it, but for weight-only methods."""
        weights_only = self.settings.activations == "float"
        return {quantizer for site, quantizer in own.items() if site.role == WEIGHT or not weights_only}

    def _learn(self, problem: Problem, own: dict[Site, Quantizer]) -> UnitRecord:
        """Learn a unit, or take it from the run directory if it was finished before."""
        name, directory = problem.unit.name, self.directory
        if directory is None:
            return self._learn_now(problem, own)
        finished = directory.load(name)
        if finished is not None:
            tensors, fields = finished
            restore_learned(self.model, own, tensors)
            record = UnitRecord(**fields)
            self.at_once = min(self.at_once, record.at_once or self.at_once)
            return record
        record = self._learn_now(problem, own)
        directory.save(name, learned(self.model, own), record.to_dict())
        return record

    def _learn_now(self, problem: Problem, own: dict[Site, Quantizer]) -> UnitRecord:
        name, settings = problem.unit.name, self.settings
        before = mean_loss(problem)
        learner = Learner(self.model, own, settings)
        if settings.rounding == "gptq":
            self._round(problem, own)
        if learner.learns:
            self.progress(name, 0, settings.iterations)
            self.begin = time.perf_counter()
            self.at_once = optimise_within_memory(
                problem,
                learner,
                settings,
                lambda: seeded(self.seed, name, self.model.device),
                lambda done, loss: self._step(name, done, loss),
                self.at_once,
                self._again,
            )
        learner.settle()
        after = mean_loss(problem)
        kept = "learned"
        if not after <= before:
            learner.restore()
            kept = "nearest"
        logger.info("%s: loss %.4g before, %.4g after, kept: %s", name, before, after, kept)
        steps = settings.iterations if learner.learns else 0
        return UnitRecord(name, steps, before, after, kept, self.at_once if steps else 0)

    def _again(self) -> None:
        """The unit begins again: what it logged so far will be logged again."""
        self.begin = time.perf_counter()
        if self.directory is not None:
            self.directory.forget_unfinished_losses()

    def _step(self, name: str, done: int, loss: float) -> None:
        self.progress(name, done, self.settings.iterations)
        if done == TIMED_STEPS and not self.told and name in self.estimate.forward:
            left = self.estimate.seconds_left(name, done, time.perf_counter() - self.begin)
            logger.info("reconstruct: about %s left for all units", in_words(left))
            self.told = True
        if self.directory is not None:
            self.directory.log({"unit": name, "step": done, "loss": loss})

    def _round(self, problem: Problem, own: dict[Site, Quantizer]) -> None:
        """Closed-form rounding of every layer of a unit, one after the other."""
        settings = self.settings
        arguments = (problem.inputs, problem.references, settings.tokens, self.seed)
        for done, inputs in enumerate(layer_by_layer(problem.unit, own, *arguments)):
            self.progress(f"{problem.unit.name} closed form", done, len(own))
            round_layer(
                inputs,
                own[inputs.site],
                damping=settings.damping,
                compensate=settings.compensate == "all" or settings.compensate == problem.unit.part,
            )
