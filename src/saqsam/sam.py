"""``Sam``: a float or quantized model with what one needs to use it, the same face for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray
from torch import nn

from saqsam.errors import PromptError, UsageError
from saqsam.families.record import Model
from saqsam.families.registry import family_of, tell_licence
from saqsam.files import expanded
from saqsam.images.pixels import Picture, as_pixels
from saqsam.models.attach import quantizer_at
from saqsam.models.device import check_device
from saqsam.models.sites import WEIGHT, Site, float_parts, quantized_sites
from saqsam.pack.convert import to_packed
from saqsam.pack.file import write_packed
from saqsam.prompts.prompts import checked_prompts
from saqsam.recipe import Recipe
from saqsam.segment.predictor import low_res_side
from saqsam.segment.result import Segmentation
from saqsam.segment.zoom import Answering, segment
from saqsam.torch_state import as_documented

if TYPE_CHECKING:
    from saqsam.calibrate.calibration_set import QuantizeLog
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
        records: what calibration found (ranges, folds, clips, units); empty for a float model.
        file: the packed file it was loaded from or saved to, if any.
        log: how it was quantized, if in this process: pictures, notes, seconds; not stored.
        zoom: box prompts are answered on crops around them unless a call says otherwise, see
            :mod:`saqsam.segment.zoom`; what a model was made for, so False for the official ones.
        clip_to_box: answers to box prompts are cut to their box unless a call says otherwise.
        engine: who computes it, as of ``saqsam.load``.
    """

    model: Model
    name: str
    quantization: Recipe | None = None
    records: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    log: QuantizeLog | None = None
    zoom: bool = False
    clip_to_box: bool = False
    engine: str = "torch"

    @property
    def bits(self) -> str:
        """``"float"``, or bits such as ``"w4a4"``."""
        return "float" if self.quantization is None else self.quantization.bits

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe as plain JSON types, or ``None``."""
        return None if self.quantization is None else self.quantization.to_dict()

    def to(self, device: str) -> Sam:
        """Move the model; returns itself.

        Raises:
            UsageError: the device cannot be used on this machine; the model stays where it was.
        """
        check_device(device)
        nn.Module.to(self.model, device)
        return self

    def answering(
        self,
        *,
        multimask_output: bool = False,
        all_masks: bool = False,
        zoom: bool | None = None,
        clip_to_box: bool | None = None,
    ) -> Answering:
        """How this model answers prompts; what is None is the model's own way."""
        return Answering(
            multimask_output=multimask_output,
            all_masks=all_masks,
            zoom=self.zoom if zoom is None else zoom,
            clip_to_box=self.clip_to_box if clip_to_box is None else clip_to_box,
        )

    def answering_boxes(self, zoom: bool | None = None, clip_to_box: bool | None = None) -> Sam:
        """The same model (not a copy of its weights) with another way to answer boxes; None keeps its own."""
        how = self.answering(zoom=zoom, clip_to_box=clip_to_box)
        return replace(self, zoom=how.zoom, clip_to_box=how.clip_to_box)

    @as_documented
    def segment(
        self,
        image: Picture,
        boxes: ArrayLike | None = None,
        points: Any = None,
        labels: Any = None,
        masks: ArrayLike | None = None,
        *,
        multimask_output: bool = False,
        all_masks: bool = False,
        zoom: bool | None = None,
        clip_to_box: bool | None = None,
    ) -> Segmentation:
        """Segment what boxes, points or earlier masks ask for on one image.

        Args:
            image: a file; a Pillow image; or an array or tensor of one picture: ``(H, W, 3)`` uint8 RGB, also
                grey, RGBA, channels first, floats in 0..1.
            boxes: ``(P, 4)`` XYXY in pixels of the displayed image; or one box ``(4,)``.
            points: ``(P, 2)``, one click for each object; ``(P, K, 2)``, K clicks for each; or lists of any
                number of clicks for each. x, y in pixels.
            labels: as ``points`` without x, y: 1 for foreground, 0 for background, -1 for no click; all
                foreground if left out.
            masks: ``(P, 4g, 4g)`` logits, g the model's embedding grid, as ``low_res_logits`` of an earlier
                answer on this image; with boxes or points, or alone.
            multimask_output: choose the best of three masks by predicted IoU instead of the single one.
            all_masks: all three masks, as three rows of the result for each object.
            zoom: answer boxes on crops around them, see :mod:`saqsam.segment.zoom`; None: as this model does.
            clip_to_box: cut answers to boxes to their box; None: as this model does.

        Returns:
            Masks ``(P, H, W)`` bool and predicted IoU ``(P,)``; empty if nothing was asked for.

        Raises:
            ImageError: the picture cannot be read. PromptError: a prompt has no meaning on this image, or
            ``zoom=True`` or ``clip_to_box=True`` without boxes, or ``zoom=True`` with masks.
        """
        loaded = as_pixels(image)
        height, width = loaded.pixels.shape[:2]
        prompts = checked_prompts(
            width,
            height,
            boxes=boxes,
            points=points,
            labels=labels,
            masks=masks,
            mask_side=low_res_side(self.model),
        )
        if (zoom or clip_to_box) and boxes is None:
            raise PromptError(
                f"{'zoom' if zoom else 'clip_to_box'}: there are no boxes; give some or leave it out"
            )
        if zoom and masks is not None:
            raise PromptError(
                "zoom: mask prompts lie in the frame of the whole image; leave out one of the two"
            )
        how = self.answering(
            multimask_output=multimask_output, all_masks=all_masks, zoom=zoom, clip_to_box=clip_to_box
        )
        found = segment(self.model, loaded.pixels, prompts, how)
        return replace(found, notes=loaded.notes)

    @as_documented
    def segment_many(
        self,
        images: Sequence[Picture],
        boxes: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        points: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        labels: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        masks: Sequence[ArrayLike | None] | NDArray[Any] | None = None,
        *,
        multimask_output: bool = False,
        all_masks: bool = False,
        zoom: bool | None = None,
        clip_to_box: bool | None = None,
        batch: int | None = None,
    ) -> list[Segmentation]:
        """Segment several images, of any sizes, each with prompts of its own.

        Args:
            images: N pictures, each as ``image`` of :meth:`segment`.
            boxes: N entries, each as ``boxes`` of :meth:`segment`; None for an image without boxes.
            points: N entries, each as ``points`` of :meth:`segment`, or None.
            labels: N entries, each as ``labels`` of :meth:`segment`, or None: all foreground.
            masks: N entries, each as ``masks`` of :meth:`segment`, or None.
            multimask_output, all_masks, zoom, clip_to_box: as of :meth:`segment`.
            batch: images encoded together; by default 1 on a CPU, where more are no faster, and 4 on an
                accelerator. Crops of ``zoom`` are encoded one by one.

        Returns:
            N results in the order of the images, each what :meth:`segment` gives, up to the order of float
            additions where images are encoded together. An image that is asked nothing is not encoded, and
            its result is empty. All masks are held: for whole folders see ``saqsam segment``.

        Raises:
            UsageError: no image, or not one entry for each.
            ImageError, PromptError: as :meth:`segment`; the message says which image. Nothing is returned.
        """
        from saqsam.segment.batch import segment_images

        how = self.answering(
            multimask_output=multimask_output, all_masks=all_masks, zoom=zoom, clip_to_box=clip_to_box
        )
        given = {"boxes": boxes, "points": points, "labels": labels, "masks": masks}
        return segment_images(self.model, images, given, how, batch=batch)

    @as_documented
    def everything(
        self,
        image: Picture,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **settings: Any,
    ) -> Everything:
        """Segment everything on one image from a grid of clicks, without prompts.

        Args:
            image: as of :meth:`segment`.
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
        pixels = as_pixels(image).pixels
        return segment_everything(self.model, pixels, options or options_from(settings), progress)

    @as_documented
    def save(self, path: str | Path) -> None:
        """Write a quantized model as one packed file, atomically.

        Raises:
            UsageError: the model is float; ``saqsam.checkpoints.official.write_official`` writes those.
        """
        if self.quantization is None:
            raise UsageError(f"{self.name} is a float model: quantize it first, then save it")
        path = expanded(path)
        write_packed(path, to_packed(self.model, self.quantization, self.records))
        self.file = path
        tell_licence(self.model, path)

    @as_documented
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
        """Plain JSON types: recipe, sizes in bytes, every quantized site, and what stays float and why."""
        return {
            "recipe": self.recipe,
            "file_bytes": self.file.stat().st_size if self.file is not None and self.file.is_file() else None,
            "float_bytes": sum(4 * parameter.numel() for parameter in self.model.parameters()),
            "sites": [row for row in map(self._site_row, quantized_sites(self.model)) if row is not None],
            "kept_float": self._kept_float(),
            "float_steps": [asdict(step) for step in family_of(self.model).float_steps],
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
