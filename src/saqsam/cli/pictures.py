"""Pictures of what several models make of the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saqsam.cli.progress import Report
    from saqsam.cli.prompted_set import PromptedSet
    from saqsam.datasets.instances import ImageRecord, InstanceSet
    from saqsam.images.files import Pixels
    from saqsam.prompts.from_dataset import ImagePrompts
    from saqsam.report.compared_picture import Drawn
    from saqsam.sam import Sam


def write_pictures(
    directory: Path,
    models: Mapping[str, Sam],
    of: PromptedSet,
    *,
    count: int,
    report: Report = lambda stage, done, total: None,
) -> list[Path]:
    """Draw truth, each model's masks, and what only one of them has, on the first images with prompts.

    Args:
        directory: existing; gets one PNG for each image.
        models: by the title that stands above their masks; differences are from the first.
        of: the set; bad entries and images that cannot be read are left out if it says so.
        count: images to draw.
        report: told of every picture.

    Returns:
        The files written.
    """
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import open_listed
    from saqsam.errors import ImageError
    from saqsam.report.compared_picture import compared_picture
    from saqsam.report.show import save_picture

    bad = BadEntries(of.on_error)
    dataset, by_image = of.read(bad)
    written: list[Path] = []
    taken: set[str] = set()
    listed = [image for image in dataset.images if image.id in by_image][:count]
    for done, image in enumerate(listed):
        report("pictures", done, len(listed))
        try:
            pixels = open_listed(image).pixels
        except ImageError as error:
            bad.leave_out_image(error)
            continue
        asked = by_image[image.id]
        drawn = [drawn_by(sam, title, pixels, asked, dataset.categories) for title, sam in models.items()]
        picture = compared_picture(pixels, drawn, truth_of(dataset, image, asked))
        written.append(save_picture(directory, image.file_name, picture, taken))
    report("pictures", len(listed), len(listed))
    return written


def drawn_by(
    sam: Sam, title: str, pixels: Pixels, asked: ImagePrompts, categories: Mapping[int, str]
) -> Drawn:
    """A model's masks of the prompts of one image, each with class and score.

    Args:
        sam: the model.
        title: of its panel.
        pixels: ``(H, W, 3)`` uint8 RGB.
        asked: what it is asked.
        categories: names by id.
    """
    from saqsam.report.compared_picture import Drawn

    boxes, points = asked.prompts.boxes, asked.prompts.points
    found = sam.segment(pixels, boxes=boxes, points=points, labels=asked.prompts.labels)
    scores = [a * float(b) for a, b in zip(asked.scores, found.iou_scores, strict=True)]
    names = [categories.get(key, str(key)) for key in asked.category_ids]
    labels = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    return Drawn(title, found.masks, boxes, points, labels)


def truth_of(dataset: InstanceSet, image: ImageRecord, asked: ImagePrompts) -> Drawn | None:
    """The annotated masks of an image, those asked for first, so that colours agree; None without any."""
    import numpy as np

    from saqsam.report.compared_picture import Drawn

    first = list(asked.instances)
    ids = {one.id for one in first}
    objects = [*first, *(one for one in dataset.instances_of(image.id) if one.id not in ids)]
    if not objects:
        return None
    labels = [dataset.categories[one.category_id] + " (crowd)" * one.iscrowd for one in objects]
    boxes = np.array([one.box_xyxy for one in objects])
    return Drawn("truth", np.stack([one.mask() for one in objects]), boxes, labels=labels)
