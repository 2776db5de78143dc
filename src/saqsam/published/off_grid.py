"""Models as the published code leaves them: to be evaluated beside honest ones, never to be stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from saqsam.api import Images, calibration_images, float_sam
from saqsam.calibrate.images import CalibrationImage, Encoded, decode_each, pixels_of
from saqsam.datasets.bad_entries import STOP, BadEntries
from saqsam.datasets.exif_words import AUTO
from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.mixed.choose import allocate_bits
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT
from saqsam.pipeline import Progress, calibrated_copy
from saqsam.published.learning import Count, PublishedWalk, as_published, unquantized_weights
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.cache import Cache
from saqsam.reconstruct.overrides import overridden
from saqsam.reconstruct.seeds import seeded
from saqsam.reconstruct.walk import begin
from saqsam.sam import Sam
from saqsam.segment.predictor import embed
from saqsam.torch_state import as_documented

logger = logging.getLogger("saqsam")


@dataclass
class OffGridSam(Sam):
    """A SAM with soft weights and half quantized activations.

    Attributes:
        coins: decides at every forward pass which activations are quantized; ``manual_seed`` repeats one.
    """

    coins: torch.Generator = field(default_factory=torch.Generator)

    @property
    def bits(self) -> str:
        """Bits of the recipe, and that they are not true."""
        return f"{super().bits}, not on the grid"

    def save(self, path: str | Path) -> NoReturn:
        """Refused.

        Raises:
            UsageError: always.
        """
        raise UsageError(self._why_not(f"written to {path}"))

    def save_pretrained(self, directory: str | Path) -> NoReturn:
        """Refused.

        Raises:
            UsageError: always.
        """
        raise UsageError(self._why_not(f"written to {directory}"))

    def _why_not(self, what: str) -> str:
        honest = "" if self.quantization is None else self.quantization.name.removeprefix("as-published-")
        return (
            f"{self.name} is not on the grid, so no integers hold it and it cannot be {what}; "
            f"quantize with the recipe '{honest}' instead"
        )


@as_documented
@torch.no_grad()
def quantize_as_published(
    sam: Sam | Model,
    recipe: Recipe | str,
    images: Images,
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> OffGridSam:
    """What the released code makes of a recipe, to compare with ``saqsam.quantize`` of the same.

    Args:
        sam, images, annotations, prompts, progress, on_error, exif: as in ``saqsam.quantize``.
        recipe: ``qdrop``, ``ptq4sam-l``, ``saq-sam`` or one like them.

    Returns:
        A model to evaluate, whose ``records["off_grid"]`` holds the shares of ``weights`` and ``activations``
        that are not quantized, the latter over the calibration images. It cannot be stored.

    Raises:
        UsageError: the model is quantized already, or there are no usable images.
        RecipeError: see ``as_published``.
    """
    sam = float_sam(sam)
    chosen = as_published(load_recipe(recipe) if isinstance(recipe, str) else recipe)
    images_found = calibration_images(chosen, images, annotations, prompts, on_error, exif)
    found = [x for x in images_found if len(x.prompts)]
    if not found:
        raise UsageError("calibration needs at least one image with at least one prompt")
    chosen = allocate_bits(sam.model, chosen, found, progress)
    model = calibrated_copy(sam.model, chosen, found)
    coins = seeded(chosen.calibration.seed, "coins", model.device)
    cache = Cache()
    asked, patches = begin(model, found, cache)
    walk = PublishedWalk(model, chosen, asked, progress, cache, coins)
    walk.estimate_all(patches[walk.estimate.image])
    units = [unit.to_dict() for unit in walk.records(patches)]
    shares = off_grid_shares(model, found)
    logger.warning(
        "%s: not on the grid: %.1f %% of weights and %.1f %% of activations are not quantized",
        chosen.name,
        *(100 * shares[kind] for kind in ("weights", "activations")),
    )
    records = {"units": units, "off_grid": shares}
    return OffGridSam(model, f"{sam.name} {chosen.name}", chosen, records, coins=coins)


def off_grid_shares(model: Model, images: Sequence[CalibrationImage]) -> dict[str, float]:
    """Shares of ``weights`` and of ``activations`` (of one pass over ``images``) off their grids."""
    quantizers = all_quantizers(model)
    weights = {site: layer_at(model, site).effective_weight() for site in quantizers if site.role == WEIGHT}
    count = Count(quantizers)
    with overridden(count.overrides):
        for image in images:
            pixels, frame = pixels_of(model, image)
            encoded = Encoded(image.path.name, embed(model, pixels), image.prompts, frame)
            decode_each(model, [encoded])
    return {"weights": unquantized_weights(quantizers, weights), "activations": count.share}
