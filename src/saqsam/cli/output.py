"""Results on stdout: a table for people, or exactly one JSON object for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saqsam.visible import visible

if TYPE_CHECKING:
    from saqsam.datasets.bad_entries import LeftOut

_PIPE_WIDTH = 10_000
"""Columns of a pipe: programs that read tables want each row on one line."""


def console() -> Console:
    """A console on the current stdout; plain text, unwrapped, where that is not a terminal."""
    terminal = sys.stdout.isatty()
    width = None if terminal else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=not terminal)


def print_json(result: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinity, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 1) -> None:
    """A table; columns from index ``right`` on align to the right. Brackets in cells are not markup, and
    characters that show nothing are spelled out."""
    table = Table(title=Text(visible(title)) if title else None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < right else "right", no_wrap=index >= right)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console().print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Plain lines; brackets in names are not markup."""
    for line in lines:
        console().print(visible(line, keep="\n"), markup=False)


def print_left_out(notes: Sequence[str], left_out: Sequence[LeftOut]) -> None:
    """What was accepted with a note, and what was left out: a line for each kind, with a count."""
    from saqsam.datasets.bad_entries import left_out_lines

    print_lines([f"note: {note}" for note in notes])
    if left_out:
        print_lines([f"left out {len(left_out)} bad entries:"])
        print_lines([f"  {line}" for line in left_out_lines(left_out)])


def size_text(count: int) -> str:
    """Bytes in the decimal unit that suits them: ``812 B``, ``12.3 kB``, ``1.98 MB``."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1_000_000 else megabytes(count)


def megabytes(count: int) -> str:
    """Bytes as decimal megabytes: ``1.98 MB``."""
    return f"{count / 1e6:.2f} MB"


def listed(errors: Sequence[Exception], shown: int = 5) -> str:
    """The first few errors in one line, and how many more there are."""
    more = len(errors) - shown
    return "; ".join(map(str, errors[:shown])) + (f"; and {more} more" if more > 0 else "")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
