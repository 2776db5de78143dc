"""``saqsam evaluate``: how well a model segments a COCO-format set."""

from __future__ import annotations

from typing import Annotated

import typer

from saqsam.cli.arguments import (
    AnnotationsOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    LimitOption,
    Model,
    PromptsOption,
    ScoreThresholdOption,
    TopKOption,
    check_choice_of_detections,
    check_directory,
    check_file,
    check_prompts,
)
from saqsam.cli.output import print_json
from saqsam.cli.progress import progress
from saqsam.cli.results import print_results, stop_on_nan


def evaluate(
    model: Model,
    images: ImagesOption,
    annotations: AnnotationsOption,
    prompts: PromptsOption = "boxes",
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Model whose masks agreement is measured with.", metavar="MODEL"),
    ] = None,
    limit: LimitOption = None,
    top_k: TopKOption = None,
    score_threshold: ScoreThresholdOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Measure COCO mask AP, mIoU against ground truth, and agreement with a reference model."""
    check_directory(images, "--images")
    check_file(annotations, "--annotations")
    asked = check_prompts(prompts)
    check_choice_of_detections(asked, top_k, score_threshold)

    from saqsam import api

    with progress() as report:
        result = api.evaluate(
            api.load(model, device=device),
            images,
            annotations,
            asked,
            reference=None if reference is None else api.load(reference, device=device),
            limit=limit,
            top_k=top_k,
            score_threshold=score_threshold,
            progress=report,
        )
    if json:
        print_json(result.to_dict())
    else:
        print_results([result])
    stop_on_nan([result])
