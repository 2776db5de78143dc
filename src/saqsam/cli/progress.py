"""Progress on stderr, with the time left; silent where stderr is not a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

Report = Callable[[str, int, int], None]
"""Called with the stage's name, how many steps are done, and how many there are."""


@contextmanager
def progress() -> Iterator[Report]:
    """Yield a function that draws one bar for each stage it hears of."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, int] = {}
        messages = _Messages(console)
        logger = logging.getLogger("saqsam")
        level = logger.level

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = int(bars.add_task(stage, total=total))
            bars.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        logger.addHandler(messages)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield report
        finally:
            logger.removeHandler(messages)
            logger.setLevel(level)


class _Messages(logging.Handler):
    """Shows what the library has to say, such as estimates, above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


def within(report: Report, prefix: str) -> Report:
    """A report whose stages are named ``prefix: stage``."""
    return lambda stage, done, total: report(f"{prefix}: {stage}", done, total)
