"""``saqsam segment`` on a folder: a detector's boxes in, COCO results with masks out."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.answers import Answering
from saqsam.cli.arguments import check_file, check_output
from saqsam.cli.engine import engine_for_shards
from saqsam.cli.many import RESULTS, Distribution
from saqsam.cli.notes import print_notes
from saqsam.cli.output import listed, print_json, print_left_out, print_lines
from saqsam.cli.progress import Report, progress
from saqsam.cli.results import stop_on_nan
from saqsam.errors import ImageError, InputError, UsageError
from saqsam.files import atomic_write

if TYPE_CHECKING:
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import InstanceSet
    from saqsam.datasets.listing import ListedImage
    from saqsam.many.work import Item, Row
    from saqsam.sam import Sam


@dataclass(frozen=True)
class FolderRequest:
    """What is segmented, as the command line has it.

    Attributes:
        by: who answers.
        folder: its images; not those of folders inside it.
        detections: COCO-results json of boxes.
        annotations: COCO json that says which images, and their ids; its ``annotations`` may be absent.
            Without it, ids are those ``saqsam detect`` gives: names that are numbers, else the place in the
            order of names, from 1.
        top_k: keep at most this many detections of each image, best first.
        score_threshold: drop detections with a lower score.
    """

    by: Answering
    folder: Path
    detections: Path
    annotations: Path | None
    top_k: int | None
    score_threshold: float | None


@dataclass
class _Run:
    """What came of the folder so far."""

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[ImageError] = field(default_factory=list)
    images: int = 0
    without_detections: int = 0
    clipped: int = 0
    encoder_passes: int = 0
    dark: int = 0
    duplicates: int | None = None


def segment_folder(
    request: FolderRequest, out: Path, bad: BadEntries, distribution: Distribution, *, force: bool, json: bool
) -> None:
    """Segment every detection on the images of a folder and write one COCO-results file.

    A result's score is the detector's score times the predicted IoU. An image that cannot be read is
    counted and listed; the others are segmented and written all the same.

    Args:
        request: what is segmented.
        out: json to write; or a directory for shards, which the same call continues, and ``results.json``.
        bad: what becomes of bad entries of detections and annotations; where they are left out, so are images
            that cannot be read.
        distribution: who works, and the kind of shards.
        force: replace ``out`` if it exists; begin anew in a directory.
        json: print the summary as JSON.

    Raises:
        InputError: an image could not be read and is not to be left out; raised after the results of the
            others were written. Or none could be.
        NumericalError: a mask was not finite; nothing is written.
        UnknownFrame: an image is rotated or mirrored by EXIF, and neither sizes nor boxes tell its frame.
    """
    check_file(request.detections, "--detections")
    if request.annotations is not None:
        check_file(request.annotations, "--annotations")
    directory = distribution.directory_or_file(out)
    by = replace(request.by, engine=engine_for_shards(request.by.engine, directory is not None))
    if directory is None:
        if out.suffix != ".json":
            raise UsageError(
                f"--out {out}: the results of a folder are written as .json, or as shards in a directory"
            )
        check_output(out, "--out", force)

    from saqsam.images.files import dark_pictures
    from saqsam.many.work import Item
    from saqsam.prompts.from_dataset import prompts_for
    from saqsam.prompts.plausible import implausible

    sam = by.load()
    with progress() as report:
        images, dataset, failures = _listed(request, bad, report)
        prompts = prompts_for(
            dataset, request.detections, top_k=request.top_k, score_threshold=request.score_threshold, bad=bad
        )
        notes = bad.notes_beside((*dataset.notes, *implausible(dataset, prompts, request.detections)))
        items = [Item(image, prompts.get(image.id)) for image in images]
        started = time.perf_counter()
        if directory is None:
            run = _gathered(_segment(sam, items, report))
        else:
            run = _segment_in_shards(sam, by.load, items, directory, distribution, force, report)
            out = directory / RESULTS
        seconds = round(time.perf_counter() - started, 3)
    run.failures = [*failures, *run.failures]
    total = len(images) + len(failures)
    if run.images == 0:
        raise InputError(
            f"no image could be read, nothing was written; give readable images: {listed(run.failures)}"
        )
    with atomic_write(out) as temporary:
        temporary.write_text(_lines(run.results), encoding="utf-8")
    for error in run.failures if bad.skip else ():
        bad.leave_out_image(error)
    notes += dark_pictures(run.dark, run.images - run.without_detections)
    _print(request.by.model, out, run, seconds, notes, bad, json)
    if run.failures and not bad.skip:
        raise InputError(
            f"{len(run.failures)} of {total} images could not be read and have no masks in {out}; "
            f"mend them and run it again, or use --on-error skip: {listed(run.failures)}"
        )


def _listed(
    request: FolderRequest, bad: BadEntries, report: Report
) -> tuple[list[ListedImage], InstanceSet, list[ImageError]]:
    """Images to segment, the set their detections must fit, and the images that cannot be read."""
    from saqsam.datasets.coco import read_instances
    from saqsam.datasets.framed import framed
    from saqsam.datasets.instances import ImageRecord, InstanceSet
    from saqsam.datasets.listing import from_annotations

    folder, detections, exif = request.folder, request.detections, request.by.exif
    if request.annotations is not None:
        found_there = read_instances(request.annotations, folder, annotated=False, bad=bad)
        dataset = framed(found_there, exif)
        return from_annotations(dataset), dataset, []
    images, records, failures = [], [], []
    found, notes = _in_frame_of(detections, folder, exif)
    for done, image in enumerate(found):
        report("read images", done, len(found))
        try:
            height, width = image.pixels().shape[:2]
        except ImageError as error:
            failures.append(error)
            continue
        images.append(image)
        records.append(ImageRecord(image.id, image.path, image.path.name, width, height))
    report("read images", len(found), len(found))
    ids = frozenset(image.id for image in found)
    dataset = InstanceSet(folder, tuple(records), _categories(detections), {}, notes, ids)
    return images, dataset, failures


def _in_frame_of(detections: Path, folder: Path, exif: str) -> tuple[list[ListedImage], tuple[str, ...]]:
    """The images of a folder in the frame that detections on them count in, and a note on it."""
    from saqsam.datasets.exif import Picture, decide, table
    from saqsam.datasets.listing import from_folder
    from saqsam.prompts.detections import stated_boxes

    listed, boxes = from_folder(folder), stated_boxes(detections)
    pictures = [Picture(image.path, None, table(boxes.get(image.id, ()))) for image in listed]
    asked = [place for place, image in enumerate(listed) if image.id in boxes]
    found = decide(pictures, detections, exif, asked=asked)
    for place, apply_exif in zip(asked, found.apply_exif, strict=True):
        if apply_exif is False:
            listed[place] = replace(listed[place], apply_exif=False)
    return listed, found.notes


def _categories(detections: Path) -> dict[int, str]:
    """Every category the detections speak of: without annotations there is no list to hold them against."""
    from saqsam.prompts.detections import stated_categories

    return {key: str(key) for key in stated_categories(detections)}


def _segment(sam: Sam, items: Sequence[Item], report: Report) -> list[Row]:
    """Segment in this process, nothing kept on the way; the first mask that is not finite ends it."""
    from saqsam.many.tasks import segment_row

    rows = []
    for done, item in enumerate(items):
        report("segment", done, len(items))
        rows.append(segment_row(sam, item))
        _stop_on_nan(sam, rows[-1:])
    report("segment", len(items), len(items))
    return rows


def _segment_in_shards(
    sam: Sam,
    load: Callable[[], Sam],
    items: Sequence[Item],
    directory: Path,
    distribution: Distribution,
    force: bool,
    report: Report,
) -> _Run:
    from saqsam.many.tasks import SegmentJob
    from saqsam.many.work import identity_of

    merged = distribution.run(
        SegmentJob(load), items, identity_of("segment", sam, items), directory, force, report, "segment"
    )
    _stop_on_nan(sam, merged.rows)
    run = _gathered(merged.rows)
    run.duplicates = merged.duplicates
    return run


def _stop_on_nan(sam: Sam, rows: Sequence[Row]) -> None:
    for row in rows:
        stop_on_nan(sam.name, row["nan_count"], f"masks or scores of {row['file']}", so="")


def _gathered(rows: Sequence[Row]) -> _Run:
    from saqsam.many.tasks import unreadable

    read = [row for row in rows if row["unreadable"] is None]
    return _Run(
        results=[entry for row in read for entry in row["results"]],
        failures=unreadable(rows),
        images=len(read),
        without_detections=sum(not row["asked"] for row in read),
        clipped=sum(row["clipped"] for row in read),
        encoder_passes=sum(row.get("encoder_passes", 0) for row in read),
        dark=sum(row.get("dark", False) for row in read),
    )


def _lines(results: Sequence[dict[str, Any]]) -> str:
    """A JSON list with one result a line."""
    lines = ",\n".join(jsonlib.dumps(entry, allow_nan=False) for entry in results)
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def _print(
    model: str, out: Path, run: _Run, seconds: float, notes: Sequence[str], bad: BadEntries, json: bool
) -> None:
    if json:
        print_json(
            {
                "model": model,
                "out": str(out),
                "images": run.images,
                "masks": len(run.results),
                "images_without_detections": run.without_detections,
                "clipped_boxes": run.clipped,
                "encoder_passes": run.encoder_passes,
                "unreadable": [{"file": error.path, "reason": error.reason} for error in run.failures],
                "left_out": [asdict(one) for one in bad.left_out],
                "seconds": seconds,
                **({} if run.duplicates is None else {"duplicates": run.duplicates}),
                "notes": list(notes),
            }
        )
        print_notes(notes, json)
        return
    lines = [f"{out}: {len(run.results)} masks on {run.images} images, {seconds:.1f} s"]
    if run.without_detections:
        lines.append(f"{run.without_detections} images had no detections")
    if run.clipped:
        lines.append(f"{run.clipped} boxes reached past their image and were clipped")
    if run.encoder_passes > run.images:
        lines.append(f"{run.encoder_passes} encoder passes, one for each crop around boxes (--zoom)")
    if run.duplicates:
        lines.append(f"{run.duplicates} images were in more than one shard; one row of each was kept")
    print_lines(lines)
    print_left_out((), bad.left_out)
    print_notes(notes, json)
