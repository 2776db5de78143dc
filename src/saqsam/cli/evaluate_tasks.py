"""``saqsam evaluate --task oriented`` and ``--task semantic``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.arguments import check_directory, check_file, make_directory
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_left_out, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, pictures_entry, print_pictures, share, stop_on_nan
from saqsam.datasets.exif_words import AUTO
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import ImageRecord
    from saqsam.everything import EverythingOptions
    from saqsam.images.files import Pixels
    from saqsam.prompts.from_dataset import ImagePrompts
    from saqsam.sam import Sam
    from saqsam.tasks.oriented import OrientedResult
    from saqsam.tasks.oriented_ap import OrientedDetection, OrientedObject
    from saqsam.tasks.oriented_set import OrientedSet
    from saqsam.tasks.semantic import SemanticResult

TASKS = ("instance", "oriented", "semantic")


@dataclass(frozen=True)
class TaskRequest:
    """What the command line asked for, the task's own options apart."""

    model: str
    images: Path
    annotations: Path
    limit: int | None
    device: str
    reference: str | None
    show_dir: Path | None
    json: bool
    bad: BadEntries
    exif: str = AUTO

    def drawn_beside(self) -> Sam | None:
        """The reference, loaded, if there is one to be drawn."""
        from saqsam import api

        return None if self.reference is None else api.load(self.reference, device=self.device)


@dataclass(frozen=True)
class ZeroAndVoid:
    """Which labels of the semantic task are no class.

    Attributes:
        ignore_zero: label 0 of the truth is none.
        reduce_zero: label maps to refine count classes from 0, the truth from 1.
        ignore: further labels that are none.
    """

    ignore_zero: bool = True
    reduce_zero: bool = False
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.reduce_zero and not self.ignore_zero:
            raise UsageError("--reduce-zero-label says that 0 is no class, --count-zero that it is; give one")
        if any(label < 0 for label in self.ignore):
            raise UsageError(
                f"--ignore-label {min(self.ignore)}: labels are numbers from 0; give one of them"
            )


def check_task(task: str, given: dict[str, tuple[str, bool]]) -> str:
    """The task, if it exists and every option given is one of its own.

    Args:
        task: its name.
        given: option to the task it belongs to, and whether it was used.

    Raises:
        UsageError: no such task, or an option of another.
    """
    if task not in TASKS:
        raise UsageError(f"--task {task}: expected {', '.join(TASKS)}")
    for option, (owner, used) in given.items():
        if used and task != owner:
            raise UsageError(f"{option} belongs to --task {owner}, not to --task {task}")
    return task


def evaluate_oriented_task(
    request: TaskRequest,
    prompts: str | Path,
    *,
    top_k: int | None,
    score_threshold: float | None,
    task1_dir: Path | None,
) -> None:
    """Oriented detection: read, measure, write ``Task1`` files and pictures if asked for, print.

    Raises:
        NumericalError: masks were not finite.
    """
    check_directory(request.images, "--images")
    if not request.annotations.is_dir():
        check_file(request.annotations, "--annotations")
    if task1_dir is not None:
        make_directory(task1_dir, "--task1-dir", force=True)  # files of the same name are replaced

    from saqsam import api
    from saqsam.report.show import make_show_directory
    from saqsam.tasks.dota_results import write_task1
    from saqsam.tasks.oriented import evaluate_oriented
    from saqsam.tasks.oriented_set import oriented_prompts, read_oriented

    bad, limit = request.bad, request.limit
    dataset = read_oriented(request.annotations, request.images, exif=request.exif, limit=limit, bad=bad)
    asked = oriented_prompts(dataset, prompts, top_k=top_k, score_threshold=score_threshold, bad=bad)
    make_show_directory(request.show_dir)
    with progress() as report:
        sam = api.load(request.model, device=request.device)
        pictures = None
        if request.show_dir is not None:
            beside = request.drawn_beside()
            pictures = _OrientedPictures(request.show_dir, sam.bits, beside, dataset, asked)
        result, detections = evaluate_oriented(
            sam,
            dataset,
            asked,
            str(prompts),
            progress=lambda done, total: report("evaluate", done, total),
            show=pictures,
            bad=bad,
        )
    if task1_dir is not None:
        write_task1(task1_dir, dataset.listing, detections)
    if request.json:
        print_json({**result.to_dict(), **pictures_entry(request.show_dir, _drawn(pictures))})
    else:
        _print_oriented(result)
        print_pictures(request.show_dir, _drawn(pictures))
    print_notes(result.notes, request.json)
    stop_on_nan(result.model, result.nan_count)


@dataclass(frozen=True)
class _OrientedPictures:
    """Draws true oriented boxes, those of the reference if there is one, and the model's."""

    directory: Path
    bits: str
    reference: Sam | None
    dataset: OrientedSet
    asked: Mapping[int, ImagePrompts]
    taken: set[str] = field(default_factory=set)

    def __call__(self, image: ImageRecord, pixels: Pixels, found: Sequence[OrientedDetection]) -> None:
        from saqsam.images.draw import side_by_side
        from saqsam.report.show import save_picture
        from saqsam.tasks.oriented import evaluate_oriented

        panels = {"truth": self._truth(image, pixels)}
        if self.reference is not None:
            _, theirs = evaluate_oriented(
                self.reference, self.dataset.only(image.id), self.asked, "reference"
            )
            panels[f"reference, {self.reference.bits}"] = self._found(pixels, theirs)
        panels[self.bits] = self._found(pixels, found)
        picture = side_by_side(list(panels.values()), list(panels))
        save_picture(self.directory, image.file_name, picture, self.taken)

    def _truth(self, image: ImageRecord, pixels: Pixels) -> Image:
        objects = self.dataset.objects[image.id]
        names = [self._name(one.category_id) + " (difficult)" * one.difficult for one in objects]
        return _outlined(pixels, objects, names)

    def _found(self, pixels: Pixels, found: Sequence[OrientedDetection]) -> Image:
        return _outlined(pixels, found, [f"{self._name(one.category_id)} {one.score:.2f}" for one in found])

    def _name(self, category_id: int) -> str:
        return self.dataset.listing.categories.get(category_id, str(category_id))


def _outlined(
    pixels: Pixels, found: Sequence[OrientedDetection | OrientedObject], labels: Sequence[str]
) -> Image:
    from saqsam.report.show import draw_polygons

    return draw_polygons(pixels, [one.corners for one in found], [one.category_id for one in found], labels)


def _drawn(pictures: _OrientedPictures | _SemanticPictures | None) -> list[Path]:
    return [] if pictures is None else [pictures.directory / name for name in sorted(pictures.taken)]


def _print_oriented(result: OrientedResult) -> None:
    rows = [
        [name, str(one.objects), str(one.detections), percent(one.AP50), percent(one.AP50_area)]
        for name, one in result.classes.items()
    ]
    counts = [str(sum(one.objects for one in result.classes.values())), str(result.detections)]
    rows.append(["all", *counts, percent(result.AP50), percent(result.AP50_area)])
    title = f"{result.model} ({result.bits}): {result.images} images, prompts: {result.prompts}"
    print_table(title, ["class", "objects", "boxes", "AP50", "AP50 (area)"], rows)
    lines = (
        [f"mean overlap with the objects asked for: {share(result.mIoU)}"] if result.mIoU is not None else []
    )
    if result.empty_masks:
        lines.append(f"{result.empty_masks} masks had no pixel; their upright boxes were taken")
    print_lines([*lines, f"{result.seconds:.1f} s"])
    print_left_out((), result.left_out)


def evaluate_semantic_task(
    request: TaskRequest,
    labels: str | None,
    preset: str | None,
    settings: Sequence[str],
    zero: ZeroAndVoid,
) -> None:
    """Semantic segmentation: read, refine, measure, write pictures if asked for, print.

    Args:
        request: what other tasks take too.
        labels: where the starting maps come from.
        preset: settings of everything mode by name; None takes the published ones.
        settings: ``NAME=VALUE`` changes to them.
        zero: which labels are no class.

    Raises:
        UsageError: an option is missing or makes no sense.
        NumericalError: predicted IoUs were not finite.
    """
    check_directory(request.images, "--images")
    check_directory(request.annotations, "--annotations")
    if labels is None:
        raise UsageError("--task semantic needs --labels: a folder of label maps, hf:DIR, or noisy")
    if labels != "noisy" and not labels.startswith("hf:"):
        check_directory(Path(labels), "--labels")
    options = _everything_options(preset, settings)

    from saqsam import api
    from saqsam.report.show import make_show_directory
    from saqsam.tasks.semantic import evaluate_semantic, starting_maps
    from saqsam.tasks.semantic_maps import read_semantic

    bad, limit = request.bad, request.limit
    dataset = read_semantic(request.annotations, request.images, exif=request.exif, limit=limit, bad=bad)
    start = starting_maps(
        labels,
        dataset,
        device=request.device,
        lenient=bad.skip,
        reduce_zero_label=zero.reduce_zero,
        ignore=zero.ignore,
    )
    make_show_directory(request.show_dir)
    with progress() as report:
        sam = api.load(request.model, device=request.device)
        pictures = None
        if request.show_dir is not None:
            pictures = _SemanticPictures(request.show_dir, sam.bits, request.drawn_beside(), options)
        result = evaluate_semantic(
            sam,
            dataset,
            start,
            labels,
            options,
            ignore_zero=zero.ignore_zero,
            ignore=zero.ignore,
            progress=lambda done, total: report("evaluate", done, total),
            show=pictures,
            bad=bad,
        )
    if request.json:
        print_json({**result.to_dict(), **pictures_entry(request.show_dir, _drawn(pictures))})
    else:
        _print_semantic(result)
        print_pictures(request.show_dir, _drawn(pictures))
    print_notes(result.notes, request.json)
    stop_on_nan(result.model, result.nan_count)


def _everything_options(preset: str | None, settings: Sequence[str]) -> EverythingOptions:
    """The settings of a preset with ``NAME=VALUE`` changes."""
    from dataclasses import asdict

    from saqsam.everything.options import options_from
    from saqsam.tasks.semantic import SSA_PRESETS

    chosen = "paper" if preset is None else preset
    if chosen not in SSA_PRESETS:
        raise UsageError(f"--preset {chosen}: expected {' or '.join(SSA_PRESETS)}")
    changed: dict[str, Any] = {}
    for text in settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"--everything {text}: expected NAME=VALUE, such as points_per_side=32")
        try:
            changed[name.strip()] = int(value) if value.strip().lstrip("-").isdigit() else float(value)
        except ValueError:
            raise UsageError(f"--everything {text}: {value!r} is not a number; give one") from None
    return options_from({**asdict(SSA_PRESETS[chosen]), **changed})


@dataclass(frozen=True)
class _SemanticPictures:
    """Draws label maps: the starting one, refined by the reference if there is one, refined, true."""

    directory: Path
    bits: str
    reference: Sam | None
    options: EverythingOptions
    taken: set[str] = field(default_factory=set)

    def __call__(self, name: str, pixels: Pixels, start: Any, refined: Any, truth: Any) -> None:
        import numpy as np

        from saqsam.images.draw import colour_of, side_by_side
        from saqsam.images.labels import with_key
        from saqsam.report.show import draw_labels, save_picture
        from saqsam.tasks import semantic_vote

        maps = {"labels": start}
        if self.reference is not None:
            found = self.reference.everything(pixels, self.options)
            maps[f"refined by reference, {self.reference.bits}"] = semantic_vote.refined(start, found)
        maps |= {f"refined, {self.bits}": refined, "truth": truth}
        panels = [draw_labels(pixels, labels) for labels in maps.values()]
        classes = sorted({int(key) for labels in maps.values() for key in np.unique(labels)} - {0})
        key = [(f"class {one}", colour_of(one)) for one in classes]
        sheet = with_key(side_by_side(panels, list(maps)), key)
        save_picture(self.directory, name, sheet, self.taken)


def _print_semantic(result: SemanticResult) -> None:
    rows = [
        [str(key), str(one.pixels), percent(one.start), percent(one.refined)]
        for key, one in result.classes.items()
    ]
    rows.append(["mean IoU", "", percent(result.start_mIoU), percent(result.mIoU)])
    accuracies = (percent(result.start_pixel_accuracy), percent(result.pixel_accuracy))
    rows.append(["pixel accuracy", "", *accuracies])
    title = f"{result.model} ({result.bits}): {result.images} images, labels: {result.labels}"
    print_table(title, ["class", "pixels", "labels", "refined"], rows)
    print_lines([f"{result.masks} masks, {result.seconds:.1f} s"])
    print_left_out((), result.left_out)
