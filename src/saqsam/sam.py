"""``Sam``: a float or quantized model with what one needs to use it, the same face for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn
from transformers import SamModel

from saqsam.errors import UsageError
from saqsam.images import open_image
from saqsam.models.attach import quantizer_at
from saqsam.models.sites import WEIGHT, Site, float_parts, quantized_sites
from saqsam.pack.convert import to_packed
from saqsam.pack.file import write_packed
from saqsam.predictor import checked_pixels, predict
from saqsam.prompts.prompts import checked_prompts
from saqsam.recipe import Recipe
from saqsam.segmentation import Segmentation

if TYPE_CHECKING:
    from saqsam.everything import Everything, EverythingOptions


_NO_FACTS: dict[str, Any] = {"scale": None, "zero_point": None, "tau": 0, "log_levels": 0, "groups": []}
"""What is said of a site in any case, for readers of the table; its grid fills in what it has."""


@dataclass
class Sam:
    """A Segment Anything Model, float or quantized.

    Attributes:
        model: ``transformers.SamModel``; a quantized one is still accepted by ``SamProcessor`` and pipelines.
        name: what the user called it: a file, a directory, a hub id, ``nano``.
        quantization: the recipe it was quantized with; ``None`` for a float model.
        records: what calibration found (ranges, folds, clips, seconds); empty for a float model.
        file: the packed file it was loaded from or saved to, if any.
    """

    model: SamModel
    name: str
    quantization: Recipe | None = None
    records: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None

    @property
    def bits(self) -> str:
        """``"float"``, or bits such as ``"w4a4"``."""
        return "float" if self.quantization is None else self.quantization.bits

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe as plain JSON types, or ``None``."""
        return None if self.quantization is None else self.quantization.to_dict()

    def to(self, device: str) -> Sam:
        """Move the model; returns itself."""
        nn.Module.to(self.model, device)
        return self

    def segment(
        self,
        image: str | Path | NDArray[np.uint8],
        boxes: ArrayLike | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        multimask_output: bool = False,
    ) -> Segmentation:
        """Segment what boxes or points ask for on one image.

        Args:
            image: a file, or ``(H, W, 3)`` uint8 RGB.
            boxes: ``(P, 4)`` XYXY in pixels of the displayed image.
            points: ``(P, 2)``, one click for each object, or ``(P, K, 2)``, K clicks for each; x, y pixels.
            labels: ``(P,)`` or ``(P, K)``: 1 for foreground, 0 for background; all foreground if left out.
            multimask_output: choose the best of three masks by predicted IoU instead of the single one.

        Returns:
            Masks ``(P, H, W)`` bool and predicted IoU ``(P,)``; empty if nothing was asked for.

        Raises:
            ImageError: the file cannot be read. PromptError: a prompt has no meaning on this image.
        """
        pixels = open_image(image).pixels if isinstance(image, str | Path) else checked_pixels(image)
        height, width = pixels.shape[:2]
        prompts, clipped = checked_prompts(width, height, boxes=boxes, points=points, labels=labels)
        found = predict(self.model, pixels, prompts, multimask_output=multimask_output)
        return replace(found, clipped_boxes=clipped)

    def segment_many(
        self,
        images: Sequence[str | Path | NDArray[np.uint8]],
        boxes: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        points: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        labels: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        *,
        multimask_output: bool = False,
        batch: int | None = None,
    ) -> list[Segmentation]:
        """Segment several images, of any sizes, each with prompts of its own.

        Args:
            images: N files, or ``(H, W, 3)`` uint8 RGB arrays.
            boxes: N entries, each as ``boxes`` of :meth:`segment`; None for an image without boxes.
            points: N entries, each as ``points`` of :meth:`segment`, or None.
            labels: N entries, each as ``labels`` of :meth:`segment`, or None: all foreground.
            multimask_output: as of :meth:`segment`.
            batch: images encoded together; by default 1 on a CPU, where more are no faster, and 4 on an
                accelerator.

        Returns:
            N results in the order of the images, each what :meth:`segment` gives, up to the order of float
            additions where images are encoded together. An image that is asked nothing is not encoded, and
            its result is empty. All masks are held: for whole folders see ``saqsam segment``.

        Raises:
            UsageError: no image, or not one entry for each.
            ImageError, PromptError: as :meth:`segment`; the message says which image. Nothing is returned.
        """
        from saqsam.batches import segment_images

        return segment_images(
            self.model, images, boxes, points, labels, multimask_output=multimask_output, batch=batch
        )

    def everything(
        self,
        image: str | Path | NDArray[np.uint8],
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **settings: Any,
    ) -> Everything:
        """Segment everything on one image from a grid of clicks, without prompts.

        Args:
            image: a file, or ``(H, W, 3)`` uint8 RGB.
            options: see ``EverythingOptions``; or give its fields as keywords, such as
                ``points_per_side=16, crop_n_layers=1``.
            progress: called with clicks done and in total.
            settings: fields of ``EverythingOptions``.

        Returns:
            Masks with predicted IoU, stability, click and crop, see ``Everything``.

        Raises:
            UsageError: a setting that does not exist or cannot be, or both options and settings.
            ImageError: the file cannot be read.
        """
        from saqsam.everything import segment_everything
        from saqsam.everything.options import options_from

        if options is not None and settings:
            raise UsageError("everything: give either options or single settings, not both")
        pixels = open_image(image).pixels if isinstance(image, str | Path) else checked_pixels(image)
        return segment_everything(self.model, pixels, options or options_from(settings), progress)

    def save(self, path: str | Path) -> None:
        """Write a quantized model as one packed file, atomically.

        Raises:
            UsageError: the model is float; ``saqsam.models.official.write_official`` writes those.
        """
        if self.quantization is None:
            raise UsageError(f"{self.name} is a float model: quantize it first, then save it")
        write_packed(path, to_packed(self.model, self.quantization, self.records))
        self.file = Path(path)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a quantized model as a directory that ``transformers`` loads.

        After ``import saqsam``, ``SamModel.from_pretrained(directory)`` and
        ``SamProcessor.from_pretrained(directory)`` open it, and so does ``saqsam.load``. It holds the packed
        file, ``config.json``, the processor's settings and a model card.

        Raises:
            UsageError: the model is float, or ``directory`` is a file.
        """
        from saqsam.drop_in.directory import write_directory

        write_directory(self, directory)

    def inspect(self) -> dict[str, Any]:
        """Plain JSON types: recipe, sizes in bytes, every quantized site, every float part and why."""
        return {
            "recipe": self.recipe,
            "file_bytes": self.file.stat().st_size if self.file is not None and self.file.is_file() else None,
            "float_bytes": sum(4 * parameter.numel() for parameter in self.model.parameters()),
            "sites": [row for row in map(self._site_row, quantized_sites(self.model)) if row is not None],
            "kept_float": self._kept_float(),
            "records": self.records,
        }

    def summary(self) -> str:
        """A few lines: bits, sites, megabytes."""
        facts = self.inspect()
        size = facts["file_bytes"]
        packed = "" if size is None else f", {size / 1e6:.2f} MB on disk"
        recipe = "float" if self.quantization is None else f"{self.quantization.name}, {self.bits}"
        return (
            f"{self.name}: {recipe}{packed}, {facts['float_bytes'] / 1e6:.2f} MB as float32; "
            f"{len(facts['sites'])} quantized sites, {len(facts['kept_float'])} float parts"
        )

    def _site_row(self, site: Site) -> dict[str, Any] | None:
        quantizer = quantizer_at(self.model, site) if self.quantization is not None else None
        if quantizer is None:
            return None
        grid = quantizer.grid
        low, high = grid.bounds()
        return {
            "path": site.path,
            "role": site.role,
            "grid": grid.name,
            "bits": grid.bits,
            "granularity": grid.granularity or site.granularity,
            "min": low,
            "max": high,
            **_NO_FACTS,
            **grid.facts(),
        }

    def _kept_float(self) -> list[dict[str, Any]]:
        itemsize = 2 if self.quantization is not None and self.quantization.float_dtype == "float16" else 4
        sizes = {name: itemsize * parameter.numel() for name, parameter in self.model.named_parameters()}
        rows = [
            {
                "path": part.path,
                "reason": part.reason,
                "bytes": sum(size for name, size in sizes.items() if _owned(name, part.path)),
            }
            for part in float_parts(self.model)
        ]
        for site in quantized_sites(self.model):
            if self.quantization is not None and quantizer_at(self.model, site) is None:
                size = sizes[f"{site.path}.weight"] if site.role == WEIGHT else 0
                rows.append({"path": site.name, "reason": "kept float by the recipe", "bytes": size})
        return rows


def _owned(parameter: str, path: str) -> bool:
    return parameter == path or parameter.startswith(f"{path}.")
