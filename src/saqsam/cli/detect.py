"""``saqsam detect``: boxes from a detector, as the COCO-results file that prompts every model alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from saqsam.cli.arguments import (
    DeviceOption,
    ExifOption,
    ForceOption,
    JsonOption,
    LimitOption,
    MaxPixelsOption,
    OnErrorOption,
    check_file,
    check_on_error,
    check_output,
)
from saqsam.cli.grouped import grouped
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_left_out, print_lines
from saqsam.cli.progress import progress
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.errors import InputError, UsageError

if TYPE_CHECKING:
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import InstanceSet
    from saqsam.datasets.listing import ListedImage
    from saqsam.detectors.run import DetectionRun

_SHOWN = 5


@dataclass(frozen=True)
class DetectorOptions:
    """Who looks."""

    TITLE: ClassVar[str] = "Detector"

    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            help="yolox-l, faster-rcnn-r50, h-detr-r50, h-detr-swin-t, h-detr-swin-l or dino-focal-l, each "
            "with --weights; or hf:DIRECTORY or hf:HUB-ID of a transformers detector.",
            metavar="NAME",
        ),
    ]
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="The detector's published weight file.", metavar="FILE"),
    ] = None
    device: DeviceOption = "cpu"


@dataclass(frozen=True)
class BoxesOptions:
    """Which boxes are written, and where."""

    TITLE: ClassVar[str] = "Boxes"

    out: Annotated[Path, typer.Option("--out", help="COCO-results json to write.", metavar="FILE")]
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", help="Keep the best K boxes of each image.", min=1, metavar="K"),
    ] = None
    score_threshold: Annotated[
        float | None,
        typer.Option("--score-threshold", help="Drop boxes with a lower score.", min=0, max=1, metavar="T"),
    ] = None
    force: ForceOption = False


@dataclass(frozen=True)
class ListedOptions:
    """Which images are looked at, and what they are called."""

    TITLE: ClassVar[str] = "Images"

    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            help="COCO json: which images, their ids, and the categories; it need not have annotations. "
            "Without it, numbers in file names are ids and COCO's categories are used.",
            metavar="FILE",
        ),
    ] = None
    exif: ExifOption = AUTO
    limit: LimitOption = None
    on_error: OnErrorOption = "stop"
    max_pixels: MaxPixelsOption = None


@grouped
def detect(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of images, or one image.")],
    by: DetectorOptions,
    boxes: BoxesOptions,
    of: ListedOptions,
    json: JsonOption = False,
) -> None:
    """Detect objects on IMAGES; give the file to 'evaluate', 'quantize' or 'segment' as prompts."""
    if not images.exists():
        raise UsageError(f"IMAGES {images}: there is no such file or directory; check the path")
    check_exif(of.exif, "--exif")
    if of.annotations is not None:
        check_file(of.annotations, "--annotations")
        if not images.is_dir():
            raise UsageError(f"IMAGES {images}: with --annotations, give the folder its file names refer to")
    check_output(boxes.out, "--out", boxes.force)
    bad = check_on_error(of.on_error)

    from saqsam.detectors.coco_names import category_ids, default_category_ids
    from saqsam.detectors.registry import load_detector
    from saqsam.detectors.run import detect_images, write_detections

    dataset = _dataset(images, of.annotations, of.exif, of.limit, bad)
    listed, notes = _listed(images, dataset, of.exif, of.limit)
    notes = bad.notes_beside(notes)
    loaded = load_detector(by.detector, by.weights, by.device)
    if dataset is None:
        categories = default_category_ids(loaded.class_names)
    else:
        categories = category_ids(loaded.class_names, dataset.categories, dataset.path.name)
    with progress() as report:
        run = detect_images(
            loaded,
            listed,
            categories,
            top_k=boxes.top_k,
            score_threshold=boxes.score_threshold,
            progress=lambda done, total: report("detect", done, total),
        )
    if run.images == 0:
        raise InputError(
            f"no image could be read, nothing was written; give readable images: {_listing(run)}"
        )
    write_detections(boxes.out, run)
    for error in run.failures if bad.skip else ():
        bad.leave_out_image(error)
    _print(by.detector, boxes.out, run, notes, bad, json)
    if run.failures and not bad.skip:
        raise InputError(
            f"{len(run.failures)} of {len(listed)} images could not be read and have no boxes in "
            f"{boxes.out}; mend them and run it again, or use --on-error skip: {_listing(run)}"
        )


def _dataset(
    images: Path, annotations: Path | None, exif: str, limit: int | None, bad: BadEntries
) -> InstanceSet | None:
    if annotations is None:
        return None
    from saqsam.datasets.coco import read_instances
    from saqsam.datasets.framed import framed

    return framed(read_instances(annotations, images, annotated=False, limit=limit, bad=bad), exif)


def _listed(
    images: Path, dataset: InstanceSet | None, exif: str, limit: int | None
) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Images to detect on, and notes on them."""
    from saqsam.datasets.listing import ListedImage, from_annotations, from_folder, in_frame

    if dataset is not None:
        return from_annotations(dataset), dataset.notes
    found = from_folder(images) if images.is_dir() else [ListedImage(1, images)]
    return in_frame(found[:limit], exif)


def _listing(run: DetectionRun) -> str:
    shown = "; ".join(str(error) for error in run.failures[:_SHOWN])
    more = len(run.failures) - _SHOWN
    return shown + (f"; and {more} more" if more > 0 else "")


def _print(
    detector: str, out: Path, run: DetectionRun, notes: Sequence[str], bad: BadEntries, json: bool
) -> None:
    if json:
        print_json(
            {
                "detector": detector,
                "out": str(out),
                "images": run.images,
                "boxes": len(run.entries),
                "unreadable": [{"file": error.path, "reason": error.reason} for error in run.failures],
                "boxes_outside_image": run.without_area,
                "boxes_without_category": run.without_category,
                "left_out": [asdict(one) for one in bad.left_out],
                "seconds": round(run.seconds, 3),
                "notes": list(notes),
            }
        )
        print_notes(notes, json)
        return
    lines = [f"{out}: {len(run.entries)} boxes on {run.images} images, {run.seconds:.1f} s"]
    if run.without_area:
        lines.append(f"{run.without_area} boxes lay wholly outside their image and were left out")
    if run.without_category:
        lines.append(f"{run.without_category} boxes were of classes that the data set does not have")
    print_lines(lines)
    print_left_out((), bad.left_out)
    print_notes(notes, json)
