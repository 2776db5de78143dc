"""What a model is calibrated on, and what a person should know about it before hours are spent."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saqsam.calibrate.images import CalibrationImage, opened
from saqsam.images.files import Pixels

logger = logging.getLogger("saqsam")


@dataclass(frozen=True)
class CalibrationSet:
    """Images drawn for calibration, and where they come from.

    Attributes:
        images: with their prompts, in the order in which they are used.
        seen: pictures that were there to choose from.
        where: the folder, file or list that was looked at.
        asked: pictures that the recipe asks for.
        notes: what to know about them, one short sentence each.
    """

    images: Sequence[CalibrationImage]
    seen: int
    where: str
    asked: int
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """Pictures calibrated on."""
        return sum(len(image.prompts) > 0 for image in self.images)

    def __str__(self) -> str:
        few = f"; the recipe asks for {self.asked}" if self.used < self.asked else ""
        return f"calibrated on {self.used} of {self.seen} pictures in {self.where}{few}"

    def to_dict(self) -> dict[str, Any]:
        """Counts, place and notes in plain JSON types."""
        return {
            "used": self.used,
            "seen": self.seen,
            "asked": self.asked,
            "where": self.where,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The same for people."""
        return [str(self), *(f"note: {note}" for note in self.notes)]

    def log(self) -> None:
        """Say it all through the logger ``saqsam``; notes are warnings."""
        logger.info("%s", str(self).replace("calibrated", "calibrating", 1))
        for note in self.notes:
            logger.warning("note: %s", note)


@dataclass(frozen=True)
class QuantizeLog:
    """How a model was quantized in this process; nothing of it is stored in a packed file.

    Attributes:
        calibration: the pictures.
        seconds: wall time by stage.
    """

    calibration: CalibrationSet
    seconds: Mapping[str, float] = field(default_factory=dict)


def notes_on(images: Sequence[CalibrationImage]) -> tuple[str, ...]:
    """Notes on pictures, opened one after the other: what was converted, blank and nearly black ones, copies.

    Raises:
        ImageError: a file cannot be read.
    """
    told: dict[str, list[str]] = defaultdict(list)
    first: dict[bytes, str] = {}
    for image in images:
        name, picture = image.path.name, opened(image)
        for note in (*picture.notes, *_looks(picture.pixels)):
            told[note].append(name)
        twin = first.setdefault(_digest(picture.pixels), name)
        if twin is not name:
            told["a copy of another one, from which nothing is learned"].append(f"{name} (as {twin})")
    return tuple(_sentence(note, names, len(images)) for note, names in told.items())


def _looks(pixels: Pixels) -> tuple[str, ...]:
    if (pixels == pixels[0, 0]).all():
        return ("all pixels have one colour, so ranges and scales mean little; use photographs",)
    return ()


def _digest(pixels: Pixels) -> bytes:
    hashed = hashlib.sha256(repr(pixels.shape).encode())
    hashed.update(pixels.tobytes())
    return hashed.digest()


def _sentence(note: str, names: Sequence[str], count: int) -> str:
    """A note with the number of pictures that it is about, and an example."""
    example = names[0] if len(names) == 1 else f"such as {names[0]}"
    return f"{len(names)} of {count} pictures ({example}): {note}"
