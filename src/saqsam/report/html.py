"""One self-contained page about several models on one set."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.errors import RunError, UsageError
from saqsam.files import atomic_write, stop_if_full
from saqsam.jobs.directory import LOSSES
from saqsam.report.figures import percent, share
from saqsam.report.machine import versions
from saqsam.visible import visible

if TYPE_CHECKING:
    from saqsam.recipe import Recipe
    from saqsam.sam import Sam
    from saqsam.tasks.instance import InstanceResult

COLUMNS = ["model", "recipe", "bits", "mask AP", "AP50", "mIoU", "agreement", "MB"]
_FIGURES = ("AP", "AP50", "mIoU", "agreement")
_PRECISIONS = ("AP", "AP50")


def read_losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and loss by unit, from a run directory.

    Raises:
        RunError: there is no readable ``losses.jsonl``.
    """
    path = run / LOSSES
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            step, loss = int(entry["step"]), float(entry["loss"])
            if math.isfinite(loss):
                found.setdefault(str(entry["unit"]), []).append((step, loss))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read as losses of a run ({error}); give a directory made by --run"
        ) from error
    return found


def methods(models: Mapping[str, Sam], results: Sequence[InstanceResult]) -> dict[str, Any]:
    """Rows of the table, and mean and spread of models whose recipes differ in their seed alone."""
    rows: list[list[str]] = []
    groups: dict[str, list[tuple[Recipe, list[float | None]]]] = {}
    for (name, sam), one in zip(models.items(), results, strict=True):
        recipe = "–" if sam.quantization is None else sam.quantization.name
        size = sam.inspect()
        megabytes = (size["file_bytes"] or size["float_bytes"]) / 1e6
        figures = [getattr(one, key) for key in _FIGURES]
        texts = [_text(key, value) for key, value in zip(_FIGURES, figures, strict=True)]
        rows.append([name, recipe, sam.bits, *texts, f"{megabytes:.2f}"])
        if sam.quantization is not None:
            groups.setdefault(_but_for_the_seed(sam.quantization), []).append((sam.quantization, figures))
    means = [
        [seen[0][0].name, seen[0][0].bits, str(len(seen)), *map(_spread, _FIGURES, columns)]
        for seen in groups.values()
        if len(seen) > 1
        for columns in [zip(*(figures for _, figures in seen), strict=True)]
    ]
    return {
        "columns": COLUMNS,
        "rows": rows,
        "means": means,
        "mean_columns": ["recipe", "bits", "models", *COLUMNS[3:7]],
    }


def render(path: Path, content: Mapping[str, Any]) -> None:
    """Fill the template, every text escaped, and write it, all or nothing.

    Raises:
        UsageError: the file cannot be written. OutOfDisk: there is no room for it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("saqsam.report"), autoescape=True, undefined=StrictUndefined, finalize=_seen
    )
    text = environment.get_template("report.html.j2").render(versions=versions(), **content)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        stop_if_full(f"--html {path}", error)
        raise UsageError(
            f"--html {path}: cannot be written ({error.strerror}); choose another name"
        ) from error


def _seen(value: Any) -> Any:
    """What the page shows of a value: names without characters that hide or turn text around."""
    if not isinstance(value, str):
        return value
    return type(value)(visible(value, keep="\n"))  # text that is escaped already stays so


def _but_for_the_seed(recipe: Recipe) -> str:
    return replace(recipe, calibration=replace(recipe.calibration, seed=0)).recipe_hash


def _text(figure: str, value: float | None) -> str:
    return percent(value) if figure in _PRECISIONS else share(value)


def _spread(figure: str, values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None and value >= 0]
    if len(found) < 2:
        return "–"
    mean, deviation = statistics.mean(found), statistics.stdev(found)
    if figure in _PRECISIONS:
        return f"{percent(mean)} ± {percent(deviation, 2)}"
    return f"{share(mean)} ± {share(deviation)}"
