"""``saqsam everything``: masks of everything on an image, or on every image of a folder, without prompts."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from saqsam.cli.arguments import (
    DeviceOption,
    ExifOption,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    Model,
    OnErrorOption,
    check_exists,
    check_file,
    check_on_error,
    check_outputs,
)
from saqsam.cli.engine import EngineOption, load_for
from saqsam.cli.grouped import grouped
from saqsam.cli.notes import print_notes
from saqsam.cli.output import listed, print_json, print_left_out, print_lines
from saqsam.cli.progress import Report, progress
from saqsam.cli.results import stop_on_nan
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.engines.names import AUTO as FASTEST
from saqsam.errors import ImageError, InputError, UsageError
from saqsam.files import atomic_write

if TYPE_CHECKING:
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.listing import ListedImage
    from saqsam.everything import Everything, EverythingOptions
    from saqsam.sam import Sam


@dataclass(frozen=True)
class WrittenOptions:
    """What is written."""

    TITLE: ClassVar[str] = "Files"

    out: Annotated[
        Path, typer.Option("--out", help="COCO-style json: images, and masks as RLE.", metavar="FILE")
    ]
    overlay: Annotated[
        Path | None, typer.Option("--overlay", help="Picture of one image's masks.", metavar="PNG")
    ] = None
    show_dir: Annotated[
        Path | None, typer.Option("--show-dir", help="Folder for a picture of each image.", metavar="DIR")
    ] = None
    force: ForceOption = False

    def check(self, image: Path) -> None:
        """See that all can be written.

        Raises:
            UsageError: a name does not end as it should, or cannot be written to.
        """
        if image.is_dir() and self.overlay is not None:
            raise UsageError("--overlay is for one image; a folder's pictures go to --show-dir DIR")
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise UsageError(f"--overlay {self.overlay}: the picture is written as .png")
        if self.out.suffix != ".json":
            raise UsageError(f"--out {self.out}: masks are written as .json")
        check_outputs([(self.out, "--out"), (self.overlay, "--overlay")], self.force)


@dataclass(frozen=True)
class ClickOptions:
    """Which clicks are made and which masks are kept: the fields of ``EverythingOptions``."""

    TITLE: ClassVar[str] = "Clicks and masks"

    points_per_side: Annotated[int, typer.Option(help="Clicks along each side of the image.")] = 32
    points_per_batch: Annotated[int, typer.Option(help="Most clicks decoded together.")] = 64
    pred_iou_thresh: Annotated[float, typer.Option(help="Keep masks predicted above this.")] = 0.88
    stability_score_thresh: Annotated[float, typer.Option(help="Keep masks at least this stable.")] = 0.95
    stability_score_offset: Annotated[float, typer.Option(help="Distance of the cuts from logit 0.")] = 1.0
    box_nms_thresh: Annotated[float, typer.Option(help="Overlap that makes two masks one.")] = 0.7
    crop_n_layers: Annotated[int, typer.Option(help="Also look at 2x2, 4x4 ... crops.")] = 0
    crop_nms_thresh: Annotated[float, typer.Option(help="The same between crops.")] = 0.7
    crop_overlap_ratio: Annotated[float, typer.Option(help="Overlap of crops, of the shorter side.")] = (
        512 / 1500
    )
    crop_n_points_downscale_factor: Annotated[int, typer.Option(help="Fewer clicks on smaller crops.")] = 1
    min_mask_region_area: Annotated[int, typer.Option(help="Smallest hole and island, in pixels.")] = 0


@grouped
def everything(
    model: Model,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image, or a folder of images.")],
    written: WrittenOptions,
    clicks: ClickOptions,
    exif: ExifOption = AUTO,
    on_error: OnErrorOption = "stop",
    device: DeviceOption = "cpu",
    engine: EngineOption = FASTEST,
    max_pixels: MaxPixelsOption = None,
    json: JsonOption = False,
) -> None:
    """Segment everything on IMAGE from a grid of clicks; no prompts needed."""
    if not check_exists(image, "IMAGE").is_dir():
        check_file(image, "IMAGE")
    check_exif(exif, "--exif")
    bad = check_on_error(on_error)
    written.check(image)

    from saqsam.everything import EverythingOptions
    from saqsam.images.files import dark_pictures
    from saqsam.report.show import make_show_directory

    options = EverythingOptions(**asdict(clicks))
    make_show_directory(written.show_dir)
    started = time.perf_counter()
    with progress() as report:
        sam = load_for(engine, model, device)
        images, notes = _images(image, exif)
        run = _run(sam, images, options, written, report)
    if not run.images:
        raise InputError(
            f"no image could be read, nothing was written; give readable images: {listed(run.failures)}"
        )
    with atomic_write(written.out) as temporary:
        temporary.write_text(run.document(), encoding="utf-8")
    notes = (*notes, *dark_pictures(run.dark, len(run.images)), *_advice(run, options))
    for error in run.failures if bad.skip else ():
        bad.leave_out_image(error)
    _print(model, written.out, run, time.perf_counter() - started, notes, bad, json)
    if run.failures and not bad.skip:
        total = len(run.images) + len(run.failures)
        raise InputError(
            f"{len(run.failures)} of {total} images could not be read and have no masks in {written.out}; "
            f"mend them and run it again, or use --on-error skip: {listed(run.failures)}"
        )


@dataclass
class _Run:
    """What came of the images so far."""

    images: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)
    failures: list[ImageError] = field(default_factory=list)
    dark: int = 0

    def add(self, image: ListedImage, found: Everything) -> None:
        height, width = found.size
        self.images.append({"id": image.id, "file_name": image.path.name, "width": width, "height": height})
        for record in found.to_coco():
            self.masks.append({"id": len(self.masks) + 1, "image_id": image.id, **record})

    def document(self) -> str:
        """JSON with one image or mask a line."""
        images, masks = (",\n".join(map(_line, rows)) for rows in (self.images, self.masks))
        return f'{{"images": [\n{images}\n],\n"annotations": [\n{masks}\n]}}\n'


def _line(entry: dict[str, Any]) -> str:
    return jsonlib.dumps(entry, allow_nan=False, ensure_ascii=False)


def _images(image: Path, exif: str) -> tuple[list[ListedImage], tuple[str, ...]]:
    from saqsam.datasets.listing import ListedImage, from_folder, in_frame

    return in_frame(from_folder(image) if image.is_dir() else [ListedImage(1, image)], exif)


def _run(
    sam: Sam,
    images: list[ListedImage],
    options: EverythingOptions,
    written: WrittenOptions,
    report: Report,
) -> _Run:
    from saqsam.report.show import save_picture

    def clicks(done: int, total: int) -> None:
        if len(images) == 1:  # the time left of a folder is that of its images
            report("clicks", done, total)

    run, taken = _Run(), set[str]()
    for image, pixels in _readable(images, run, report):
        found = sam.everything(pixels, options, progress=clicks)
        stop_on_nan(sam.name, found.nan_count, f"predicted IoUs of {image.path}", so="")
        run.add(image, found)
        if written.overlay is not None:
            save_picture(written.overlay.parent, written.overlay.name, found.draw(pixels))
        if written.show_dir is not None:
            save_picture(written.show_dir, image.path.name, found.draw(pixels), taken)
    return run


def _readable(images: list[ListedImage], run: _Run, report: Report) -> Iterator[tuple[ListedImage, Any]]:
    from saqsam.images.files import is_nearly_black

    for done, image in enumerate(images):
        report("images", done, len(images))
        try:
            pixels = image.pixels()
        except ImageError as error:
            run.failures.append(error)
            continue
        run.dark += is_nearly_black(pixels)
        yield image, pixels
    report("images", len(images), len(images))


def _advice(run: _Run, options: EverythingOptions) -> list[str]:
    """What to try where no mask passed the thresholds."""
    if run.masks:
        return []
    return [
        f"no mask has a predicted IoU above {options.pred_iou_thresh:g} and a stability of at least "
        f"{options.stability_score_thresh:g}; try --pred-iou-thresh {0.8 * options.pred_iou_thresh:.2g} "
        f"--stability-score-thresh {0.8 * options.stability_score_thresh:.2g}, or more --points-per-side"
    ]


def _print(
    model: str, out: Path, run: _Run, seconds: float, notes: Sequence[str], bad: BadEntries, json: bool
) -> None:
    if json:
        print_json(
            {
                "model": model,
                "out": str(out),
                "images": len(run.images),
                "masks": len(run.masks),
                "unreadable": [{"file": error.path, "reason": error.reason} for error in run.failures],
                "left_out": [asdict(one) for one in bad.left_out],
                "seconds": round(seconds, 3),
                "notes": list(notes),
            }
        )
    else:
        print_lines([f"{out}: {len(run.masks)} masks on {len(run.images)} images, {seconds:.1f} s"])
        print_left_out((), bad.left_out)
    print_notes(notes, json)
