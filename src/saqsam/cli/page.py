"""The page of ``saqsam compare --html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saqsam.sam import Sam
    from saqsam.tasks.instance import InstanceResult

LOOKED_AT, RANKED = 2, 24
"""Images for histograms and errors; images ranked by agreement for the pictures."""


def write_page(
    path: Path,
    models: Mapping[str, Sam],
    judge: Sam,
    results: Sequence[InstanceResult],
    images: Path,
    annotations: Path,
    prompts: str | Path,
    *,
    limit: int | None,
    top_k: int | None,
    score_threshold: float | None,
    run: Path | None,
) -> None:
    """Look at a few images again, and write the page."""
    from saqsam.prompts.from_dataset import prompts_for
    from saqsam.report.compared import errors_figure, model_part
    from saqsam.report.html import methods, read_losses, render
    from saqsam.report.plots import losses_plot
    from saqsam.tasks.coco_json import read_instances
    from saqsam.tasks.instance_set import open_listed

    losses = read_losses(run) if run is not None else {}
    dataset = read_instances(annotations, images)
    dataset = dataset if limit is None else dataset.first(limit)
    by_image = prompts_for(dataset, prompts, top_k=top_k, score_threshold=score_threshold)
    listed = [image for image in dataset.images if image.id in by_image][:RANKED]

    def segment(sam: Sam, image: Any) -> Any:
        asked, pixels = by_image[image.id].prompts, open_listed(image).pixels
        return sam.segment(pixels, boxes=asked.boxes, points=asked.points, labels=asked.labels)

    def look(sam: Sam) -> None:
        for image in listed[:LOOKED_AT]:
            segment(sam, image)

    quantized = {name: sam for name, sam in models.items() if sam.quantization is not None}
    pictures = [
        one for name, sam in quantized.items() for one in _worst_and_median(name, sam, judge, listed, segment)
    ]
    first = results[0]
    content = {
        "facts": f"{first.images} images, {first.instances} prompts ({first.prompts}); agreement is with "
        f"{judge.name}",
        **methods(models, results),
        "categories": list(dataset.categories.values()),
        "pictures": pictures,
        "models": [model_part(name, sam, lambda sam=sam: look(sam)) for name, sam in quantized.items()],  # type: ignore[misc]
        "errors": errors_figure(judge, quantized, look) if judge.quantization is None else None,
        "losses": losses_plot(losses) if losses else None,
    }
    render(path, content)


def _worst_and_median(
    name: str, sam: Sam, judge: Sam, listed: Sequence[Any], segment: Any
) -> list[dict[str, str]]:
    """Masks of both models on the image where they agree least and on the median one."""
    import numpy as np

    from saqsam.report.overlay import side_by_side
    from saqsam.report.plots import image_uri
    from saqsam.tasks.instance_set import open_listed

    scores = []
    for image in listed:
        ours, theirs = segment(sam, image).masks, segment(judge, image).masks
        both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
        scores.append(float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean()))
    order = np.argsort(scores, kind="stable")
    found = []
    for word, place in (("worst", 0), ("median", len(order) // 2)) if len(order) else ():
        image = listed[order[place]]
        pixels = open_listed(image).pixels
        panels = [segment(one, image).draw(pixels) for one in (judge, sam)]
        caption = (
            f"{name}, {word} of {len(order)} images: {image.file_name}, agreement {scores[order[place]]:.3f}"
        )
        found.append({"uri": image_uri(side_by_side(panels, [judge.bits, sam.bits])), "caption": caption})
    return found
