"""``saqsam segment``: masks for one image from boxes, clicks and masks, or for a folder from detections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.answers import Answering, ClipToBoxOption, ZoomOption
from saqsam.cli.arguments import (
    DeviceOption,
    ExifOption,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    Model,
    OnErrorOption,
    ScoreThresholdOption,
    TopKOption,
    check_choice_of_detections,
    check_exists,
    check_on_error,
)
from saqsam.cli.engine import EngineOption, check_engine
from saqsam.cli.grouped import grouped
from saqsam.cli.many import LOCAL, OnOption, ShardsOption, WorkersOption, distribution
from saqsam.cli.segment_folder import FolderRequest, segment_folder
from saqsam.cli.segment_image import ImageRequest, segment_image
from saqsam.cli.segment_prompts import PromptOptions
from saqsam.datasets.bad_entries import STOP
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.engines.names import AUTO as FASTEST
from saqsam.errors import UsageError


@dataclass(frozen=True)
class _MaskOptions:
    """Which of three masks one image gets, and where they go."""

    multimask_output: Annotated[
        bool,
        typer.Option("--multimask-output", help="The best of three masks by predicted IoU, for one image."),
    ] = False
    all_masks: Annotated[
        bool, typer.Option("--all-masks", help="All three masks of each object, for one image.")
    ] = False
    overlay: Annotated[
        Path | None,
        typer.Option("--overlay", help="Picture of the masks over the image.", metavar="FILE"),
    ] = None


@dataclass(frozen=True)
class _FolderOptions:
    """What a folder of images needs."""

    detections: Annotated[
        Path | None,
        typer.Option("--detections", help="For a folder: COCO-results json of boxes.", metavar="FILE"),
    ] = None
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            help="For a folder: COCO json that gives images their ids. Without it, names that are numbers "
            "are the ids, others are counted from 1, as in 'saqsam detect'.",
            metavar="FILE",
        ),
    ] = None
    top_k: TopKOption = None
    score_threshold: ScoreThresholdOption = None
    on_error: OnErrorOption = STOP
    on: OnOption = LOCAL
    workers: WorkersOption = None
    shards: ShardsOption = None

    def given(self) -> str | None:
        """The first option that was used, if any."""
        used = {
            "--detections": self.detections is not None,
            "--annotations": self.annotations is not None,
            "--top-k": self.top_k is not None,
            "--score-threshold": self.score_threshold is not None,
            "--on-error": self.on_error != STOP,
            "--on": self.on != LOCAL,
            "--workers": self.workers is not None,
            "--shards": self.shards is not None,
        }
        return next((option for option, is_used in used.items() if is_used), None)


@dataclass(frozen=True)
class _RunOptions:
    """How answers are computed and written."""

    zoom: ZoomOption = None
    clip_to_box: ClipToBoxOption = None
    device: DeviceOption = "cpu"
    engine: EngineOption = FASTEST
    exif: ExifOption = AUTO
    max_pixels: MaxPixelsOption = None
    force: ForceOption = False
    json: JsonOption = False


@grouped
def segment(
    model: Model,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image, or a folder of images.")],
    prompts: PromptOptions,
    masks: _MaskOptions,
    folder: _FolderOptions,
    run: _RunOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Mask image, 0 and 255, or logits for --mask as .npy; for a folder, COCO results json, or a "
            "directory that keeps finished images in shards and continues.",
            metavar="FILE|DIR",
        ),
    ] = None,
) -> None:
    """Segment IMAGE; coordinates are pixels of it as displayed. Several boxes give out-1.png, out-2.png."""
    check_engine(run.engine)
    check_exif(run.exif, "--exif")
    by = Answering(model, run.device, run.engine, run.zoom, run.clip_to_box, run.exif)
    if check_exists(image, "IMAGE").is_dir():
        _segment_folder(by, image, prompts, masks, folder, run, out)
    else:
        _segment_image(by, image, prompts, masks, folder, run, out)


def _segment_image(
    by: Answering,
    image: Path,
    prompts: PromptOptions,
    masks: _MaskOptions,
    folder: _FolderOptions,
    run: _RunOptions,
    out: Path | None,
) -> None:
    used = folder.given()
    if used is not None:
        raise UsageError(f"{used} is for a folder of images; one image takes --box and --point")
    segment_image(
        ImageRequest(
            by=by,
            image=image,
            prompts=prompts.arguments(),
            masks=tuple(prompts.mask or ()),
            multimask_output=masks.multimask_output,
            all_masks=masks.all_masks,
        ),
        out,
        masks.overlay,
        force=run.force,
        json=run.json,
    )


def _segment_folder(
    by: Answering,
    image: Path,
    prompts: PromptOptions,
    masks: _MaskOptions,
    folder: _FolderOptions,
    run: _RunOptions,
    out: Path | None,
) -> None:
    if prompts or masks.overlay is not None:
        raise UsageError("a folder is segmented with --detections FILE, not with boxes, points or --overlay")
    if masks.multimask_output or masks.all_masks:
        raise UsageError(
            "--multimask-output and --all-masks are for one image; leave them out, a folder gets single masks"
        )
    if folder.detections is None or out is None:
        raise UsageError("a folder needs --detections FILE (boxes to segment) and --out FILE (the results)")
    check_choice_of_detections(folder.detections, folder.top_k, folder.score_threshold)
    segment_folder(
        FolderRequest(
            by=by,
            folder=image,
            detections=folder.detections,
            annotations=folder.annotations,
            top_k=folder.top_k,
            score_threshold=folder.score_threshold,
        ),
        out,
        check_on_error(folder.on_error),
        distribution(folder.on, folder.workers, folder.shards, run.device),
        force=run.force,
        json=run.json,
    )
