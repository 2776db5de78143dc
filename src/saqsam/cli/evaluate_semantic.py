"""``saqsam evaluate --task semantic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.arguments import check_directory
from saqsam.cli.evaluate_tasks import TaskRequest
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_left_out, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, pictures_entry, print_pictures, stop_on_nan
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.everything import EverythingOptions
    from saqsam.images.files import Pixels
    from saqsam.sam import Sam
    from saqsam.tasks.semantic import SemanticResult


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
    drawn = request.drawn(set() if pictures is None else pictures.taken)
    if request.json:
        print_json({**result.to_dict(), **pictures_entry(request.show_dir, drawn)})
    else:
        _print_semantic(result)
        print_pictures(request.show_dir, drawn)
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
