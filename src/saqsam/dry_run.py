"""What a quantization will take, said without doing it: one picture is tried, and the rest is multiplied.

Times are rough, by a factor of two on a busy machine.
"""

from __future__ import annotations

import copy
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from saqsam.calibrate.images import CalibrationImage
from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import sizes_of
from saqsam.mixed.sensitivity import sensitivities
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT, quantized_sites
from saqsam.pipeline import FOLD_IMAGES, Progress, tried_calibration
from saqsam.recipe import Recipe
from saqsam.reconstruct.estimate import Estimate, timed
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.walk import looked_ahead

_AUDIT = 1.5
"""What freezing and its audit take, as a multiple of what the ranges of all weights take with one picture."""

_DESCRIPTION = 1100
"""Bytes by which the files of a run directory describe a site and hold its grid."""


@dataclass(frozen=True)
class DryRun:
    """What a recipe will take on a model and its pictures.

    Attributes:
        recipe: its name.
        bits: its bits.
        images: calibration images.
        prompts: prompts on them, in all.
        sites: quantized sites.
        float_sites: sites of the table that the recipe leaves float.
        encoder_passes: passes of the image encoder, learning steps not counted.
        steps: learning steps.
        seconds: rough time by stage.
        memory_bytes: of the whole process, at most.
        file_bytes: the packed file, but for its description of itself.
        run_bytes: a run directory, at most; 0 where nothing is learned.
    """

    recipe: str
    bits: str
    images: int
    prompts: int
    sites: int
    float_sites: int
    encoder_passes: int
    steps: int
    seconds: Mapping[str, float]
    memory_bytes: int
    file_bytes: int
    run_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with ``total_seconds``."""
        return {**asdict(self), "total_seconds": sum(self.seconds.values())}


def dry_run(model: Model, recipe: Recipe, images: Sequence[CalibrationImage], progress: Progress) -> DryRun:
    """Try everything on one picture.

    Args:
        model: float; it is not changed.
        recipe: what would be done.
        images: what it would be calibrated on.
        progress: see ``pipeline.Progress``.

    Raises:
        UsageError: no image has a prompt.
    """
    images = [image for image in images if len(image.prompts)]
    if not images:
        raise UsageError("calibration needs at least one image with at least one prompt; annotate objects")
    usual = sorted(images, key=lambda image: len(image.prompts))[len(images) // 2]
    prompts = sum(len(image.prompts) for image in images)
    plain = replace(recipe, mixed=replace(recipe.mixed, enabled=False))
    work, one = tried_calibration(copy.deepcopy(model), plain, [usual], progress)
    times = {
        "encoder folds": min(len(images), FOLD_IMAGES),
        "decoder folds": min(len(images), FOLD_IMAGES),
        "encoder ranges": len(images),
        "decoder ranges": prompts / len(usual.prompts),
        "clip": min(len(images), recipe.clip.images),
    }
    seconds = {stage: took * times.get(stage, 1) for stage, took in one.seconds.items()}
    seconds["freeze"] = _AUDIT * one.seconds["weights"] + one.seconds["encoder ranges"]
    passes = len(images) + times["encoder folds"] * (one.encoder_passes - 1)
    if recipe.mixed.enabled:
        mixed, more = _mixed(work, recipe, usual, one.seconds, min(len(images), recipe.mixed.images))
        seconds["mixed precision"], passes = mixed, passes + more
    ahead = looked_ahead(work, recipe, usual, len(images)) if recipe.reconstruct.learns else None
    steps = 0
    if ahead is not None:
        seconds["reconstruct"] = ahead.seconds
        steps = sum(cost.steps for cost in ahead.units.values())
        passes += 2 * len(images) + 1
    return DryRun(
        recipe=recipe.name,
        bits=recipe.bits,
        images=len(images),
        prompts=prompts,
        sites=len(all_quantizers(work)),
        float_sites=len(quantized_sites(work)) - len(all_quantizers(work)),
        encoder_passes=round(passes),
        steps=steps,
        seconds=seconds,
        memory_bytes=_memory(work, recipe, ahead, len(images)),
        file_bytes=_file(work, recipe),
        run_bytes=0 if ahead is None else round(ahead.disk(math.inf)) + _parts(work, one.folds),
    )


def _mixed(
    work: Model, recipe: Recipe, usual: CalibrationImage, one: Mapping[str, float], images: int
) -> tuple[float, int]:
    """Seconds and encoder passes of choosing bits: calibrations at every width, then sensitivities."""
    widths = len({0, *recipe.mixed.offsets})
    draw = seeded(recipe.calibration.seed, "dry run")
    with torch.no_grad():
        own = [all_quantizers(work)] * widths
        _, took = timed(lambda: sensitivities(work, own, [usual], recipe.mixed.probes, draw))
    encoder, decoder = one["encoder ranges"], one["decoder ranges"]
    rest = sum(one.values()) - encoder - decoder
    return images * (took + encoder) + widths * (images * decoder + rest), 3 * images


def _memory(work: Model, recipe: Recipe, ahead: Estimate | None, images: int) -> int:
    """The process so far, which holds two models and has seen one picture, and what comes on top."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    so_far: int = peak if sys.platform == "darwin" else 1024 * peak
    embeddings = 4 * images * sum(math.prod(shape) for shape in sizes_of(work).embedding)
    model = sum(p.nbytes for p in work.parameters())
    if recipe.mixed.enabled:  # one model is calibrated for each width, here one stands for all
        so_far += len(set(recipe.mixed.offsets) - {0}) * model
    if ahead is None:
        return so_far + embeddings
    return max(so_far + embeddings, 2 * model + ahead.peak)


def _file(work: Model, recipe: Recipe) -> int:
    """Bytes of codes, scales and zero points of weights, and of the float rest."""
    size, quantized = 0.0, set()
    for site, quantizer in all_quantizers(work).items():
        if site.role != WEIGHT:
            continue
        weight = layer_at(work, site).weight
        quantized.add(f"{site.path}.weight")
        size += weight.numel() * quantizer.bits / 8 + len(weight) * (4 + quantizer.bits / 8)
    each = {"float16": 2, "float32": 4}[recipe.float_dtype]
    rest = sum(p.numel() for name, p in work.named_parameters() if name not in quantized)
    return round(size) + each * rest


def _parts(work: Model, folds: Mapping[str, Any]) -> int:
    """Bytes of the calibration that a run directory keeps, all weights where folds rewrote some, and of what
    its files say of each site."""
    weights = sum(p.nbytes for p in work.parameters()) if folds else 0
    return weights + _DESCRIPTION * len(all_quantizers(work))
