"""Progress where stderr is no terminal: a line for each stage, and one every half minute with time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread

from saqsam.reconstruct.durations import in_words
from saqsam.visible import visible

QUIET, EVERY = 2.0, 30.0
"""Seconds in which nothing is said, so that short work stays silent; seconds between lines of one stage."""


class Lines:
    """A ``Report`` and a listener to learning that says little: what a log should hold.

    Args:
        write: gets one line, without its end.
        clock: seconds, from any beginning.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock, self._lock = write, clock, Lock()
        self._begun = self._said = clock()
        self._stage = _Stage("starting", self._begun)
        self._stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``saqsam.cli.progress.Report``."""
        with self._lock:
            now = self._clock()
            found = self._stages.setdefault(stage, _Stage(stage, now, done))
            if done < found.done:  # the same stage for the next thing, such as another picture
                found.entered, found.first, found.learning = now, done, ""
            found.done, found.total = done, total
            self._stage = found
        self.tick()

    def heard(self, unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        """Note the loss of a learning step and the time left for all units, for the unit's next line."""
        with self._lock:
            if unit in self._stages:
                left = in_words(seconds_left)
                self._stages[unit].learning = f", loss {terms['loss']:.4g}, {left} left for all units"

    def tick(self) -> None:
        """Say what is due: a stage that has not been told of, or that nothing was said for half a minute."""
        with self._lock:
            now, stage = self._clock(), self._stage
            is_new = not stage.told and stage.done < stage.total
            if now - self._begun < QUIET or not (is_new or now - self._said >= EVERY):
                return
            stage.told, self._said = True, now
            self._write(f"saqsam: {stage.text(now)}")


@dataclass
class _Stage:
    """One stage: when it was entered, with how many steps done, and how far it is."""

    name: str
    entered: float
    first: int = 0
    done: int = 0
    total: int = 0
    learning: str = ""
    told: bool = False

    def text(self, now: float) -> str:
        so_far = now - self.entered
        text = f"{self.name} {self.done}/{self.total}" if self.total else self.name
        if so_far >= 1:
            text += f", {in_words(so_far)} so far"
        steps = self.done - self.first
        if self.learning or so_far < 1 or steps <= 0 or self.done >= self.total:
            return text + self.learning
        return text + f", {in_words(so_far / steps * (self.total - self.done))} left"


@contextmanager
def lines(write: Callable[[str], None] | None = None) -> Iterator[Lines]:
    """Yield ``Lines`` on stderr that speak by themselves too while one step takes minutes."""
    said, over = Lines(write or _on_stderr), Event()

    def speak() -> None:
        while not over.wait(1.0):
            said.tick()

    speaker = Thread(target=speak, name="saqsam progress", daemon=True)
    speaker.start()
    try:
        yield said
    finally:
        over.set()
        speaker.join()


def _on_stderr(line: str) -> None:
    try:
        sys.stderr.write(f"{visible(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # whoever read it has gone; the work goes on
        pass
