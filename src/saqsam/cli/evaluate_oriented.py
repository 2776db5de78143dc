"""``saqsam evaluate --task oriented``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from saqsam.cli.arguments import check_directory, check_file, make_directory
from saqsam.cli.evaluate_tasks import TaskRequest
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_left_out, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, pictures_entry, print_pictures, share, stop_on_nan

if TYPE_CHECKING:
    from PIL.Image import Image

    from saqsam.datasets.instances import ImageRecord
    from saqsam.images.files import Pixels
    from saqsam.prompts.from_dataset import ImagePrompts
    from saqsam.sam import Sam
    from saqsam.tasks.oriented import OrientedResult
    from saqsam.tasks.oriented_ap import OrientedDetection, OrientedObject
    from saqsam.tasks.oriented_set import OrientedSet


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
    drawn = request.drawn(set() if pictures is None else pictures.taken)
    if request.json:
        print_json({**result.to_dict(), **pictures_entry(request.show_dir, drawn)})
    else:
        _print_oriented(result)
        print_pictures(request.show_dir, drawn)
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
