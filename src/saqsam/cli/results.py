"""Evaluation results as a table, and the exit code of a model that produced NaN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.output import print_left_out, print_lines, print_table
from saqsam.errors import NumericalError
from saqsam.report.figures import percent as percent
from saqsam.report.figures import share as share

if TYPE_CHECKING:
    from saqsam.tasks.instance import InstanceResult

COLUMNS = ["model", "bits", "AP", "AP50", "AP75", "small", "medium", "large", "mIoU", "agreement", "seconds"]


def print_results(results: Sequence[InstanceResult], labels: Sequence[str] | None = None) -> None:
    """One row for each result; AP in percent, mIoU and agreement as shares. Notes are left to the caller."""
    names = labels or [result.model for result in results]
    rows = [_row(name, result) for name, result in zip(names, results, strict=True)]
    first = results[0]
    title = f"{first.images} images, {first.instances} instances, prompts: {first.prompts}"
    print_table(title, COLUMNS, rows)
    for name, result in zip(names, results, strict=True):
        if result.nan_count:
            print_lines([f"{name}: {result.nan_count} masks or scores are not finite numbers"])
    print_left_out((), first.left_out)


def print_pictures(directory: Path | None, drawn: Sequence[Path]) -> None:
    """Say where the pictures are, if some were asked for."""
    if directory is not None:
        print_lines([f"{len(drawn)} pictures in {directory}"])


def pictures_entry(directory: Path | None, drawn: Sequence[Path]) -> dict[str, Any]:
    """The files drawn, for a JSON object; nothing where none were asked for."""
    return {} if directory is None else {"pictures": [str(path) for path in drawn]}


def stop_on_nan(
    model: str, count: int, what: str = "masks or scores", so: str = "; its figures are void"
) -> None:
    """Refuse to call a run good whose model produced NaN or infinity.

    Args:
        model: its name.
        count: how many were not finite.
        what: of what.
        so: what follows from it, for the message.

    Raises:
        NumericalError: ``count`` is above 0.
    """
    if count:
        raise NumericalError(model, f"{count} {what} are NaN or infinite{so}")


def _row(name: str, result: InstanceResult) -> list[str]:
    precisions = (
        result.AP,
        result.AP50,
        result.AP75,
        result.AP_small,
        result.AP_medium,
        result.AP_large,
    )
    return [
        name,
        result.bits,
        *map(percent, precisions),
        share(result.mIoU),
        share(result.agreement),
        f"{result.seconds:.1f}",
    ]
