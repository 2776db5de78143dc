"""``saqsam compare``: several models on one set, in a table and in pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from saqsam.cli.arguments import (
    DeviceOption,
    ForceOption,
    JsonOption,
    check_directory,
    check_output,
    make_directory,
)
from saqsam.cli.engine import EngineOption, check_engine, load_where_packed
from saqsam.cli.grouped import grouped
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_lines
from saqsam.cli.progress import progress, within
from saqsam.cli.prompted_set import prompted_set
from saqsam.cli.results import print_results, stop_on_nan
from saqsam.cli.set_options import PromptOptions, SetOptions
from saqsam.engines.names import TORCH
from saqsam.errors import UsageError


@dataclass(frozen=True)
class ShownOptions:
    """What is drawn."""

    TITLE: ClassVar[str] = "Pictures and page"

    out: Annotated[
        Path | None,
        typer.Option(
            "--show-dir",
            "--out",
            help="Folder for pictures: truth, each model, and what only one of two models has.",
            metavar="DIR",
        ),
    ] = None
    pictures: Annotated[int, typer.Option("--pictures", help="Images to draw.", min=0, metavar="N")] = 6
    html: Annotated[
        Path | None, typer.Option("--html", help="One page with tables and figures.", metavar="FILE")
    ] = None
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory whose losses --html shows.", metavar="DIR")
    ] = None
    force: ForceOption = False


@grouped
def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL...", help="Models, as in 'saqsam evaluate'.")
    ],
    of: SetOptions,
    asked: PromptOptions,
    shown: ShownOptions,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Model to agree with; the first one by default.", metavar="MODEL"),
    ] = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = TORCH,
    json: JsonOption = False,
) -> None:
    """Evaluate several models on the same images and prompts, side by side."""
    if len(models) < 2:
        raise UsageError("compare needs at least two models")
    check_engine(engine)
    dataset = prompted_set(of, asked)
    losses = _checked(shown)

    from saqsam.cli.page import write_page
    from saqsam.cli.pictures import write_pictures

    with progress() as report:
        loaded = [load_where_packed(engine, name, device) for name in models]
        compared_with = loaded[0] if reference is None else load_where_packed(engine, reference, device)
        results = [
            dataset.evaluate(sam, compared_with, within(report, name))
            for name, sam in zip(models, loaded, strict=True)
        ]
        by_label = dict(zip(different(models), loaded, strict=True))
        drawn = []
        if shown.out is not None:
            drawn = write_pictures(shown.out, by_label, dataset, count=shown.pictures, report=report)
        if shown.html is not None:
            write_page(shown.html, by_label, compared_with, results, dataset, losses, report)
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
            print_lines([f"{len(drawn)} pictures in {shown.out}"])
    print_notes([note for result in results for note in result.notes], json)
    for result in results:
        stop_on_nan(result.model, result.nan_count)


def _checked(shown: ShownOptions) -> dict[str, list[tuple[int, float]]]:
    """See that all can be written, and read the losses that the page shows.

    Raises:
        UsageError: a path cannot be written to, or an option lacks the one it belongs to.
    """
    if shown.run is not None and shown.html is None:
        raise UsageError("--run belongs to --html")
    losses: dict[str, list[tuple[int, float]]] = {}
    if shown.html is not None:
        from saqsam.extras import require_report
        from saqsam.report.html import read_losses

        require_report()
        check_output(shown.html, "--html", shown.force)
        if shown.run is not None:
            losses = read_losses(check_directory(shown.run, "--run"))
    if shown.out is not None:
        make_directory(shown.out, "--show-dir", shown.force)
    return losses


def different(names: Sequence[str]) -> list[str]:
    """The names, numbered where one occurs again."""
    seen = Counter[str]()
    titles = []
    for name in names:
        seen[name] += 1
        titles.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return titles
