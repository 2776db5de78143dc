"""Pictures of what several models make of the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saqsam.sam import Sam


def write_pictures(
    directory: Path,
    models: Mapping[str, Sam],
    images: Path,
    annotations: Path,
    prompts: str | Path,
    *,
    count: int,
    top_k: int | None = None,
    score_threshold: float | None = None,
    on_error: str = "stop",
    exif: str = "auto",
    limit: int | None = None,
) -> list[Path]:
    """Draw each model's masks on the first ``count`` images that have prompts.

    Args:
        directory: existing; gets one PNG for each image.
        models: by the title that stands above their masks.
        images: folder of images.
        annotations: COCO instances json.
        prompts: ``boxes``, ``points`` or a detections file.
        count: images to draw.
        top_k: of detections, draw at most this many of each image.
        score_threshold: leave out detections with a lower score.
        on_error: ``skip`` leaves out bad entries, and images that cannot be read.
        exif: frame of the annotations, as for ``api.evaluate``.
        limit: look only at the first images of the set.

    Returns:
        The files written.
    """
    from saqsam.errors import ImageError
    from saqsam.prompts.from_dataset import prompts_for
    from saqsam.report.overlay import side_by_side
    from saqsam.report.show import save_picture
    from saqsam.tasks.bad_entries import BadEntries
    from saqsam.tasks.coco_json import read_instances
    from saqsam.tasks.framed import framed
    from saqsam.tasks.instance_set import open_listed

    bad = BadEntries(on_error)
    dataset = framed(read_instances(annotations, images, limit=limit, bad=bad), exif)
    by_image = prompts_for(dataset, prompts, top_k=top_k, score_threshold=score_threshold, bad=bad)
    written: list[Path] = []
    taken: set[str] = set()
    for image in [image for image in dataset.images if image.id in by_image][:count]:
        try:
            pixels = open_listed(image).pixels
        except ImageError as error:
            bad.leave_out_image(error)
            continue
        asked = by_image[image.id].prompts
        panels = [
            sam.segment(pixels, boxes=asked.boxes, points=asked.points, labels=asked.labels).draw(pixels)
            for sam in models.values()
        ]
        picture = side_by_side(panels, list(models))
        written.append(save_picture(directory, image.file_name, picture, taken))
    return written
