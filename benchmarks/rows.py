"""A CSV file that grows row by row and is never measured twice: a stopped benchmark goes on where it was."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saqsam.files import atomic_write


class Rows:
    """The rows measured so far, kept in a file.

    Args:
        path: CSV file; read if it is there, rewritten whole after each new row.
        key: columns that say which measurement a row is; at most one row has the same values in them.
        stamp: column that says what was measured, such as a recipe's hash. A row with another stamp is out
            of date: it is not found, and the new one takes its place.
    """

    def __init__(self, path: Path, key: Sequence[str], stamp: str) -> None:
        self.path, self.key, self.stamp = path, tuple(key), stamp
        self._rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = {self._key(row): row for row in csv.DictReader(file)}

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[column]) for column in self.key)

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row with this key and this stamp was measured."""
        found = self._rows.get(self._key(row))
        return found is not None and str(found[self.stamp]) == str(row[self.stamp])

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row and write the file."""
        self._rows[self._key(row)] = dict(row)
        columns = list(dict.fromkeys(column for each in self._rows.values() for column in each))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())

    def all(self) -> list[dict[str, Any]]:
        """Every row, in the order in which their keys first came."""
        return list(self._rows.values())


def spread(rows: Iterable[Mapping[str, Any]], column: str, digits: int, factor: float = 1.0) -> str:
    """Mean and, of several rows, sample standard deviation of a column; a dash where it is empty."""
    values = [factor * float(row[column]) for row in rows if row.get(column) not in (None, "")]
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
