"""Progress on stderr, with the time left: bars on a terminal, else a few lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from saqsam.cli.progress_lines import Lines, lines
from saqsam.reconstruct.durations import in_words
from saqsam.visible import visible

Report = Callable[[str, int, int], None]
"""Called with the stage's name, how many steps are done, and how many there are."""


class Bars:
    """One bar for each stage; a ``Report``, and a listener to learning."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Report``."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(escape(visible(stage)), total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def heard(self, unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        """Show the loss of a learning step, and the time left for all units, on the unit's bar."""
        if unit in self._tasks:
            told = f"{escape(visible(unit))}  loss {terms['loss']:.4g}, all units {in_words(seconds_left)}"
            self._bars.update(self._tasks[unit], description=told)


@contextmanager
def progress() -> Iterator[Bars | Lines]:
    """Yield what tells of each stage it hears of; what the library logs for people is shown meanwhile."""
    console = Console(file=sys.stderr)
    messages = _Messages(console)
    logger = logging.getLogger("saqsam")
    level = logger.level
    with _bars(console) if console.is_terminal else lines() as told:
        logger.addHandler(messages)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield told
        finally:
            logger.removeHandler(messages)
            logger.setLevel(level)


@contextmanager
def _bars(console: Console) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Bars(bars)


class _Messages(logging.Handler):
    """Shows what the library has to say, such as estimates, above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = visible(record.getMessage(), keep="\n")
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def within(report: Report, prefix: str) -> Report:
    """A report whose stages are named ``prefix: stage``."""
    return lambda stage, done, total: report(f"{prefix}: {stage}", done, total)
