"""``saqsam compare``: several models on one set, in a table and in pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import (
    AnnotationsOption,
    DeviceOption,
    ExifOption,
    ForceOption,
    ImagesOption,
    JsonOption,
    LimitOption,
    MaxPixelsOption,
    OnErrorOption,
    PromptsOption,
    ScoreThresholdOption,
    TopKOption,
    check_choice_of_detections,
    check_directory,
    check_file,
    check_on_error,
    check_output,
    check_prompts,
    make_directory,
)
from saqsam.cli.engine import EngineOption, check_engine, load_where_packed
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_lines
from saqsam.cli.progress import progress, within
from saqsam.cli.results import print_results, stop_on_nan
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.engines.names import TORCH
from saqsam.errors import UsageError


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL...", help="Models, as in 'saqsam evaluate'.")
    ],
    images: ImagesOption,
    annotations: AnnotationsOption,
    prompts: PromptsOption = "boxes",
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Model to agree with; the first one by default.", metavar="MODEL"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--show-dir",
            "--out",
            help="Folder for pictures: truth, each model, and what only one of two models has.",
            metavar="DIR",
        ),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", help="Images to draw.", min=0, metavar="N")] = 6,
    html: Annotated[
        Path | None, typer.Option("--html", help="One page with tables and figures.", metavar="FILE")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory whose losses --html shows.", metavar="DIR")
    ] = None,
    exif: ExifOption = AUTO,
    limit: LimitOption = None,
    top_k: TopKOption = None,
    score_threshold: ScoreThresholdOption = None,
    on_error: OnErrorOption = "stop",
    device: DeviceOption = "cpu",
    engine: EngineOption = TORCH,
    force: ForceOption = False,
    max_pixels: MaxPixelsOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate several models on the same images and prompts, side by side."""
    if len(models) < 2:
        raise UsageError("compare needs at least two models")
    check_engine(engine)
    check_exif(exif, "--exif")
    check_directory(images, "--images")
    check_file(annotations, "--annotations")
    asked = check_prompts(prompts)
    check_choice_of_detections(asked, top_k, score_threshold)
    check_on_error(on_error)
    if run is not None and html is None:
        raise UsageError("--run belongs to --html")
    losses: dict[str, list[tuple[int, float]]] = {}
    if html is not None:
        from saqsam.extras import require_report
        from saqsam.report.html import read_losses

        require_report()
        check_output(html, "--html", force)
        if run is not None:
            losses = read_losses(check_directory(run, "--run"))
    if out is not None:
        make_directory(out, "--show-dir", force)

    from saqsam import api
    from saqsam.cli.page import write_page
    from saqsam.cli.pictures import write_pictures

    with progress() as report:
        loaded = [load_where_packed(engine, name, device) for name in models]
        judge = loaded[0] if reference is None else load_where_packed(engine, reference, device)
        results = [
            api.evaluate(
                sam,
                images,
                annotations,
                asked,
                reference=judge,
                limit=limit,
                top_k=top_k,
                score_threshold=score_threshold,
                progress=within(report, name),
                on_error=on_error,
                exif=exif,
            )
            for name, sam in zip(models, loaded, strict=True)
        ]
        by_label = dict(zip(different(models), loaded, strict=True))
        drawn = []
        if out is not None:
            drawn = write_pictures(
                out,
                by_label,
                images,
                annotations,
                asked,
                count=pictures,
                top_k=top_k,
                score_threshold=score_threshold,
                on_error=on_error,
                report=report,
                exif=exif,
                limit=limit,
            )
        if html is not None:
            write_page(
                html,
                by_label,
                judge,
                results,
                images,
                annotations,
                asked,
                limit=limit,
                top_k=top_k,
                score_threshold=score_threshold,
                exif=exif,
                losses=losses,
                report=report,
                on_error=on_error,
            )
    if json:
        print_json(
            {
                "reference": reference or models[0],
                "results": [result.to_dict() for result in results],
                "pictures": [str(path) for path in drawn],
            }
        )
    else:
        print_results(results, labels=models)
        if drawn:
            print_lines([f"{len(drawn)} pictures in {out}"])
    print_notes([note for result in results for note in result.notes], json)
    for result in results:
        stop_on_nan(result.model, result.nan_count)


def different(names: Sequence[str]) -> list[str]:
    """The names, numbered where one occurs again."""
    seen = Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
