"""Evaluation results as a table, and the exit code of a model that produced NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saqsam.cli.output import print_left_out, print_lines, print_table
from saqsam.errors import NumericalError

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


def stop_on_nan(results: Sequence[InstanceResult]) -> None:
    """Refuse to call a run good whose model produced NaN or infinity.

    Raises:
        NumericalError: ``nan_count`` of a result is above 0.
    """
    for result in results:
        if result.nan_count:
            raise NumericalError(
                result.model, f"{result.nan_count} masks or scores are NaN or infinite; its figures are void"
            )


def share(value: float | None, digits: int = 4) -> str:
    """A number between 0 and 1, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """An average precision in percent, or a dash; COCO's -1 means that there was nothing to find."""
    return "–" if value is None or value < 0 else f"{100 * value:.1f}"


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
