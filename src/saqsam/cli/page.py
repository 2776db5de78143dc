"""The page of ``saqsam compare --html``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saqsam.cli.progress import Report
    from saqsam.cli.prompted_set import PromptedSet
    from saqsam.datasets.instances import ImageRecord
    from saqsam.sam import Sam
    from saqsam.segment.result import Segmentation
    from saqsam.tasks.instance import InstanceResult

    Segment = Callable[[Sam, ImageRecord], Segmentation]

LOOKED_AT, RANKED = 2, 12
"""Images for histograms and errors; images ranked by agreement for the pictures. Each costs a pass."""


def write_page(
    path: Path,
    models: Mapping[str, Sam],
    reference: Sam,
    results: Sequence[InstanceResult],
    of: PromptedSet,
    losses: Mapping[str, Sequence[tuple[int, float]]],
    report: Report,
) -> None:
    """Look at a few images again, and write the page.

    Args:
        path: the file.
        models: by their names on the page.
        reference: whom agreement is with.
        results: of the models, in their order.
        of: the set they are of.
        losses: by part of a run, steps and losses; none for no such figure.
        report: told of every image.

    Raises:
        UsageError: the file cannot be written.
    """
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import can_be_read, open_listed
    from saqsam.report.compared import look_at, model_part
    from saqsam.report.curves import losses_plot
    from saqsam.report.errors_by_site import relative_errors
    from saqsam.report.html import methods, render
    from saqsam.report.plots import errors_plot

    bad = BadEntries(of.on_error)
    dataset, by_image = of.read(bad)
    with_prompts = (image for image in dataset.images if image.id in by_image)
    listed = list(islice((image for image in with_prompts if can_be_read(image, bad)), RANKED))

    def segment(sam: Sam, image: ImageRecord) -> Segmentation:
        asked, pixels = by_image[image.id].prompts, open_listed(image).pixels
        return sam.segment(pixels, boxes=asked.boxes, points=asked.points, labels=asked.labels)

    def look(sam: Sam) -> None:
        for image in listed[:LOOKED_AT]:
            segment(sam, image)

    quantized = {name: sam for name, sam in models.items() if sam.quantization is not None}
    parts, errors = [], {}
    outputs = look_at(reference, partial(look, reference)).outputs if reference.quantization is None else None
    for done, (name, sam) in enumerate(quantized.items()):
        report("page: figures", done, len(quantized))
        looked = look_at(sam, partial(look, sam))
        errors[name] = {} if outputs is None else relative_errors(outputs, looked.outputs)
        parts.append(model_part(name, sam, looked))
    report("page: figures", len(quantized), len(quantized))
    first = results[0]
    content = {
        "facts": f"{first.images} images, {first.instances} prompts ({first.prompts}); agreement is with "
        f"{reference.name}",
        **methods(models, results),
        "categories": list(dataset.categories.values()),
        "pictures": _pictures(quantized, reference, listed, segment, report),
        "models": parts,
        "errors": errors_plot(errors) if any(errors.values()) else None,
        "looked_at": f"the first {len(listed[:LOOKED_AT])} images with prompts",
        "losses": losses_plot(losses) if losses else None,
    }
    render(path, content)


def _pictures(
    quantized: Mapping[str, Sam],
    reference: Sam,
    listed: Sequence[ImageRecord],
    segment: Segment,
    report: Report,
) -> list[dict[str, str]]:
    """Masks of reference and model on the image of least agreement and the median one, of each model."""
    from saqsam.datasets.instances import open_listed
    from saqsam.images.canvas import image_uri
    from saqsam.images.difference import overlaps
    from saqsam.report.compared_picture import Drawn, compared_picture

    scores: dict[str, list[float]] = {name: [] for name in quantized}
    for done, image in enumerate(listed if quantized else ()):
        report("page: pictures", done, len(listed))
        theirs = segment(reference, image).masks
        for name, sam in quantized.items():
            scores[name].append(float(overlaps(segment(sam, image).masks, theirs).mean()))
    pictures = []
    for name, sam in quantized.items():
        order = sorted(range(len(listed)), key=scores[name].__getitem__)
        for word, place in (("worst", 0), ("median", len(order) // 2)) if order else ():
            image, score = listed[order[place]], scores[name][order[place]]
            pixels = open_listed(image).pixels
            panels = []
            for title, one in ((f"reference, {reference.bits}", reference), (sam.bits, sam)):
                seen = segment(one, image)
                labels = [f"{score:.2f}" for score in seen.iou_scores]
                panels.append(Drawn(title, seen.masks, seen.prompts.boxes, seen.prompts.points, labels))
            caption = f"{name}, {word} of {len(order)} images: {image.file_name}, agreement {score:.3f}"
            pictures.append({"uri": image_uri(compared_picture(pixels, panels)), "caption": caption})
    report("page: pictures", len(listed), len(listed))
    return pictures
