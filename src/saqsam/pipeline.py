"""The whole method on one page, in order: float SAM in, frozen and audited SAM out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from saqsam.calibrate.choose_range import SiteRange, choose_activation_range, choose_weight_range
from saqsam.calibrate.images import CalibrationImage, Encoded, decode_each, decoder_batch, pixels_of
from saqsam.calibrate.observers import observer_for, observing_together
from saqsam.clip.pcc import clip_decoder
from saqsam.errors import UsageError
from saqsam.families.embedding import Embedding
from saqsam.families.record import Model
from saqsam.folds.apply import FoldRecord, fold_decoder, fold_encoder
from saqsam.folds.exact import check_folds
from saqsam.freed_memory import give_back_freed_memory
from saqsam.jobs.directory import RunDirectory
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.lookup import layer_at
from saqsam.models.plan import Plan, plan_sites, plan_to_store
from saqsam.models.sites import DECODER, ENCODER, WEIGHT, Site
from saqsam.modules.quantizer import Quantizer, Stage
from saqsam.pack.freeze import freeze
from saqsam.recipe import Recipe
from saqsam.reconstruct.progress import Listener, nobody
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.snapshot import calibrated, restore_calibrated
from saqsam.reconstruct.walk import reconstruct
from saqsam.segment.predictor import embed

_T = TypeVar("_T")
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, steps done and steps in total."""

CALIBRATION = "calibration"
"""Name of the part of a run that holds ranges and folded weights."""
FOLD_IMAGES = 2
"""Images on which folds are measured and proved exact; means and ranges of channels settle quickly."""


@dataclass
class Report:
    """What happened on the way; all but ``seconds`` is stored in the packed file and shown in reports.

    Attributes:
        ranges: range and error of every site, by site name.
        folds: what each fold did, by attention path.
        clips: what PCC did, one record for each site.
        units: what reconstruction did, one record for each unit.
        seconds: time of each stage.
        encoder_passes: forward passes of the image encoder, in total.
        decoder_prompts: prompts decoded, in total.
        images: names of the calibration images.
    """

    ranges: dict[str, SiteRange] = field(default_factory=dict)
    folds: FoldRecord = field(default_factory=dict)
    clips: list[dict[str, Any]] = field(default_factory=list)
    units: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    encoder_passes: int = 0
    decoder_prompts: int = 0
    images: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What is stored, in plain JSON types: the same for every run of the same, so without ``seconds``."""
        return {
            "ranges": {site: seen.to_dict() for site, seen in self.ranges.items()},
            "folds": self.folds,
            "clips": self.clips,
            "units": self.units,
            "encoder_passes": self.encoder_passes,
            "decoder_prompts": self.decoder_prompts,
            "images": self.images,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of ``to_dict``; older run directories have ``seconds`` besides."""
        ranges = {site: SiteRange(**seen) for site, seen in data["ranges"].items()}
        return cls(**{**data, "ranges": ranges})


@torch.no_grad()
def quantize_model(
    model: Model,
    recipe: Recipe,
    images: Sequence[CalibrationImage],
    progress: Progress = lambda stage, done, total: None,
    directory: RunDirectory | None = None,
    cache_gb: float | None = None,
    listener: Listener = nobody,
) -> Report:
    """Quantize ``model`` in place by ``recipe``; afterwards it is frozen and has passed its audit.

    Args:
        model: float SAM; it is changed, so pass a copy to keep the original.
        recipe: what to do.
        images: calibration images with prompts; all of them are used.
        progress: see ``Progress``.
        directory: keeps finished parts, and has those of an interrupted run; see ``open_run``.
        cache_gb, listener: see ``reconstruct``.

    Raises:
        UsageError: no images, or none with prompts.
        NumericalError: NaN or infinity at a site, which is named.
        InvariantError: a fold or the audit failed.
    """
    images = [image for image in images if len(image.prompts)]
    if not images:
        raise UsageError("calibration needs at least one image with at least one prompt")
    run = _Run(model, recipe, plan_to_store(model, recipe), images, progress, directory)
    if not run.restore_calibration():
        run.calibrate()
        run.keep_calibration()
    run.timed("reconstruct", lambda: run.reconstruct(cache_gb, listener))
    run.timed("freeze", lambda: freeze(model, recipe, progress))
    return run.report


@torch.no_grad()
def calibrated_copy(model: Model, recipe: Recipe, images: Sequence[CalibrationImage]) -> Model:
    """A copy of a float model with quantizers that all have ranges; its weights are folded and still float.

    Args and errors as ``quantize_model``; every image has a prompt.
    """
    (found,) = calibrated_copies(model, [recipe], images)
    return found


@torch.no_grad()
def calibrated_copies(
    model: Model,
    recipes: Sequence[Recipe],
    images: Sequence[CalibrationImage],
    progress: Progress = lambda stage, done, total: None,
) -> list[Model]:
    """As ``calibrated_copy`` for recipes that differ in bits alone.

    The copies share their parameters, so that folds are made once, and the image encoder runs once for each
    image: it is float while it is observed.
    """
    runs = [
        _Run(copied, recipe, plan_sites(model, recipe), images, progress, None)
        for copied, recipe in zip(_copies(model, len(recipes)), recipes, strict=True)
    ]
    first, *others = runs
    first.fold_encoder()
    encoded = first.observe_encoder(others)
    first.fold_decoder(encoded)
    for run in runs:
        run.choose_decoder_ranges(encoded)
    return [run.model for run in runs]


def _copies(model: Model, count: int) -> list[Model]:
    """Copies that have the same parameters."""
    first = copy.deepcopy(model)
    parameters = list(zip(model.parameters(), first.parameters(), strict=True))
    shared = [{id(own): kept for own, kept in parameters} for _ in range(count - 1)]
    return [first, *(copy.deepcopy(model, memo) for memo in shared)]


@torch.no_grad()
def tried_calibration(
    model: Model, recipe: Recipe, images: Sequence[CalibrationImage], progress: Progress
) -> tuple[Model, Report]:
    """``model``, calibrated in place with its weights still float, and what each stage took."""
    run = _Run(model, recipe, plan_sites(model, recipe), images, progress, None)
    run.calibrate()
    return run.model, run.report


class _Run:
    """The stages of quantizing a float model, to which quantizers are attached; each method is one stage."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        plan: Plan,
        images: Sequence[CalibrationImage],
        progress: Progress,
        directory: RunDirectory | None,
    ) -> None:
        check_folds(model, recipe.folds)
        attach(model, plan, float_rel_pos_query=recipe.rel_pos_query == "float")
        self.directory = directory
        self.model, self.recipe, self.plan = model, recipe, plan
        self.images, self.progress = images, progress
        self.report = Report(images=[image.path.name for image in images])

    def calibrate(self) -> None:
        """Folds, ranges and clips, in the order in which each needs the ones before."""
        self.timed("encoder folds", self.fold_encoder)
        encoded = self.timed("encoder ranges", self.observe_encoder)
        self.timed("decoder folds", lambda: self.fold_decoder(encoded))
        self.choose_decoder_ranges(encoded)

    def choose_decoder_ranges(self, encoded: list[Encoded]) -> None:
        """What follows the folds."""
        if self.recipe.clip.method == "pcc":
            self.timed("clip", lambda: self.clip(encoded))
        self.timed("decoder ranges", lambda: self.observe_decoder(encoded))
        self.timed("weights", self.choose_weight_ranges)

    def keep_calibration(self) -> None:
        """Store ranges and folded weights, so that a resumed run begins with the same numbers."""
        if self.directory is not None:
            tensors, granularities = calibrated(self.model, folded=bool(self.report.folds))
            record = {"granularities": granularities, "report": self.report.to_dict()}
            self.directory.save(CALIBRATION, tensors, record)

    def restore_calibration(self) -> bool:
        """Take ranges and folded weights from the run directory; whether they were there."""
        found = None if self.directory is None else self.directory.load(CALIBRATION)
        if found is None:
            return False
        tensors, record = found
        restore_calibrated(self.model, tensors, record["granularities"])
        self.report = Report.from_dict(record["report"])
        return True

    def timed(self, stage: str, action: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        result = action()
        give_back_freed_memory()
        self.report.seconds[stage] = time.perf_counter() - start
        return result

    def fold_encoder(self) -> None:
        def run() -> Embedding:
            few = self.images[:FOLD_IMAGES]
            self.report.encoder_passes += len(few)
            return Embedding.cat([embed(self.model, pixels_of(self.model, image)[0]) for image in few])

        draw = self._drawing("encoder folds")
        self.progress("encoder folds", 0, 1)
        self.report.folds.update(fold_encoder(self.model, self.recipe.folds, run, draw))
        self.progress("encoder folds", 1, 1)

    def observe_encoder(self, others: Sequence[_Run] = ()) -> list[Encoded]:
        """One encoder pass for each image: fills the encoder's observers, and those of other runs of the same
        weights; keeps the embeddings."""
        runs = (self, *others)
        sites = [run._observe(ENCODER) for run in runs]
        encoded = []
        with observing_together([[quantizer for _, quantizer in own] for own in sites]):
            for done, image in enumerate(self.images):
                self.progress("encoder ranges", done, len(self.images))
                pixels, frame = pixels_of(self.model, image)
                encoded.append(Encoded(image.path.name, embed(self.model, pixels), image.prompts, frame))
                self.report.encoder_passes += 1
        for run, own in zip(runs, sites, strict=True):
            run._choose_ranges(own)
        self.progress("encoder ranges", len(self.images), len(self.images))
        return encoded

    def fold_decoder(self, encoded: list[Encoded]) -> None:
        few = encoded[:FOLD_IMAGES]

        def run() -> torch.Tensor:
            self.report.decoder_prompts += sum(len(one.prompts) for one in few)
            return decode_each(self.model, few)

        draw = self._drawing("decoder folds")
        self.report.folds.update(fold_decoder(self.model, self.recipe.folds, run, draw))

    def clip(self, encoded: list[Encoded]) -> None:
        settings = self.recipe.clip
        batch = decoder_batch(encoded, settings.images, settings.prompts)
        count = len(batch.embeddings)

        def run() -> None:
            self.report.decoder_prompts += count * batch.prompts
            batch.run(self.model)

        def progress(done: int, total: int) -> None:
            self.progress("clip", done, total)

        records = clip_decoder(self.model, settings, count, run, progress)
        self.report.clips = [record.to_dict() for record in records]

    def observe_decoder(self, encoded: list[Encoded]) -> None:
        """One decoder pass for each image; queries and keys that PCC clipped are already quantized."""
        sites = self._observe(DECODER)
        for done, one in enumerate(encoded):
            self.progress("decoder ranges", done, len(encoded))
            decode_each(self.model, [one])
            self.report.decoder_prompts += len(one.prompts)
        self._choose_ranges(sites)
        self.progress("decoder ranges", len(encoded), len(encoded))

    def choose_weight_ranges(self) -> None:
        weights = [(site, found) for site, found in self._quantizers() if site.role == WEIGHT]
        for done, (site, quantizer) in enumerate(weights):
            self.progress("weights", done, len(weights))
            weight = layer_at(self.model, site).weight
            self.report.ranges[site.name] = choose_weight_range(
                quantizer, self.plan[site.name].ranges, weight
            )
        self.progress("weights", len(weights), len(weights))

    def reconstruct(self, cache_gb: float | None, listener: Listener) -> None:
        records = reconstruct(
            self.model, self.recipe, self.images, self.progress, self.directory, cache_gb, listener
        )
        self.report.units = [record.to_dict() for record in records]

    def _drawing(self, name: str) -> torch.Generator:
        return seeded(self.recipe.calibration.seed, name)

    def _quantizers(self) -> Iterable[tuple[Site, Quantizer]]:
        return all_quantizers(self.model).items()

    def _observe(self, part: str) -> list[tuple[Site, Quantizer]]:
        """Put observers on the activations of one part that still observe; returns their sites."""
        sites = [
            (site, quantizer)
            for site, quantizer in self._quantizers()
            if site.part == part and site.role != WEIGHT and quantizer.stage is Stage.OBSERVE
        ]
        for site, quantizer in sites:
            quantizer.observer = observer_for(quantizer, self.plan[site.name].ranges)
        return sites

    def _choose_ranges(self, sites: list[tuple[Site, Quantizer]]) -> None:
        """Turn what was observed into ranges; a site that saw nothing is left for the audit to name."""
        for site, quantizer in sites:
            choice = self.plan[site.name]
            found = choose_activation_range(quantizer, choice.ranges, choice.groups)
            if found is not None:
                self.report.ranges[site.name] = found
