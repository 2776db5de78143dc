"""Who hears of learning while it goes on: the progress line, listeners, the log, the run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from saqsam.jobs.directory import RunDirectory
from saqsam.reconstruct.estimate import Estimate, in_words
from saqsam.reconstruct.judge import UnitRecord

logger = logging.getLogger("saqsam")
TIMED_STEPS = 5
"""Steps of the first unit after which the remaining time is told."""
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, steps done and steps in total."""


class Telling:
    """Tells of steps and finished units.

    Args:
        progress: see ``Progress``.
        directory: gets the loss of every step.
        estimate: what lies ahead.
    """

    def __init__(self, progress: Progress, directory: RunDirectory | None, estimate: Estimate) -> None:
        self.progress, self.directory, self.estimate = progress, directory, estimate
        self.told = False
        self.begun = 0.0

    def begin(self, name: str, steps: int) -> None:
        """A unit begins to learn."""
        self.progress(name, 0, steps)
        self.begun = time.perf_counter()

    def again(self) -> None:
        """The unit begins again: what it logged so far will be logged again."""
        self.begun = time.perf_counter()
        if self.directory is not None:
            self.directory.forget_unfinished_losses()

    def step(self, name: str, done: int, steps: int, terms: Mapping[str, float]) -> None:
        """One step is done; for ``terms`` see ``optimise.Step``."""
        self.progress(name, done, steps)
        if done == TIMED_STEPS and not self.told and name in self.estimate.forward:
            left = self.estimate.seconds_left(name, done, time.perf_counter() - self.begun)
            logger.info("reconstruct: about %s left for all units", in_words(left))
            self.told = True
        if self.directory is not None:
            self.directory.log({"unit": name, "step": done, "loss": terms["loss"]})

    def finished(self, record: UnitRecord) -> None:
        """A unit is done."""
        told = (record.unit, record.before, record.after, record.judged, record.kept)
        logger.info("%s: loss %.4g before, %.4g after (%d images), kept: %s", *told)
