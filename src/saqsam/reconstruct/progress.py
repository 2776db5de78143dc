"""Who hears of learning while it goes on: the progress line, listeners, the log, the run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from saqsam.jobs.directory import RunDirectory
from saqsam.reconstruct.acceptance import UnitRecord
from saqsam.reconstruct.durations import in_words
from saqsam.reconstruct.estimate import Estimate

logger = logging.getLogger("saqsam")
TIMED_STEPS = 5
"""Steps of the first unit after which the remaining time is told again."""
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, steps done and steps in total."""
Listener = Callable[[str, int, Mapping[str, float], float], None]
"""Called after each learning step with the unit's name, its steps so far (from 1), the terms of the step, and
the seconds left for all of learning.

Terms: ``loss``, its parts ``local`` and ``prompt`` as far as they are used, and beside it ``rounding``, while
that term is on. Each step of a unit is heard once, even if the unit begins again because memory ran out;
units taken from a run directory are not heard."""


def nobody(unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
    """A listener that does not listen."""


class ProgressLog:
    """Passes on steps and finished units to all who hear of them.

    Args:
        progress: see ``Progress``.
        listener: see ``Listener``.
        directory: gets the loss of every step.
        estimate: what lies ahead.
    """

    def __init__(
        self, progress: Progress, listener: Listener, directory: RunDirectory | None, estimate: Estimate
    ) -> None:
        self.progress, self.listener = progress, listener
        self.directory, self.estimate = directory, estimate
        self.told = False
        self.heard = 0
        self.last = 0.0
        self.taken = self.expected = 0.0

    def begin(self, name: str, steps: int) -> None:
        """A unit begins to learn."""
        self.progress(name, 0, steps)
        self.last, self.heard = time.perf_counter(), 0

    def again(self) -> None:
        """The unit begins again: what it logged so far will be logged again, but not heard again."""
        self.last = time.perf_counter()
        if self.directory is not None:
            self.directory.forget_unfinished_losses()

    def step(self, name: str, done: int, steps: int, terms: Mapping[str, float]) -> None:
        """One step is done; for ``terms`` see ``Listener``."""
        now = time.perf_counter()
        self.taken, self.last = self.taken + now - self.last, now
        self.expected += self.estimate.units[name].step
        left = self.estimate.seconds_left(name, done, self._pace)
        self.progress(name, done, steps)
        if self.directory is not None:
            self.directory.log({"unit": name, "step": done, **terms})
        if done == TIMED_STEPS and not self.told:
            logger.info("reconstruct: about %s left for all units", in_words(left))
            self.told = True
        if done > self.heard:
            self.heard = done
            self.listener(name, done, terms, left)

    def finished(self, record: UnitRecord) -> None:
        """A unit is done."""
        cost = self.estimate.units[record.unit]
        left = max(0.0, self.estimate.seconds_left(record.unit, record.steps, self._pace) - cost.passes)
        logger.info(
            "%s: loss %.4g before, %.4g after (%d images), kept: %s; about %s left",
            *(record.unit, record.before, record.after, record.judged, record.kept, in_words(left)),
        )

    @property
    def _pace(self) -> float:
        return self.taken / self.expected if self.expected else 1.0
