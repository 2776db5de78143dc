"""Every exception saqsam raises on purpose, and the exit code its command line turns it into.

::

    SaqsamError                 1  something the user can mend
    ├── UsageError              2  an argument that cannot be used as given
    │   └── RecipeError         2  a recipe with an unknown key, a wrong type, an impossible value
    ├── InputError              3  a file or array that is damaged, foreign or nonsensical
    │   ├── CheckpointError     3  weights: wrong model, wrong shape, missing tensors
    │   │   ├── UnsafeCheckpoint    3  weights that would run code when opened
    │   │   └── CorruptCheckpoint   3  weights that are truncated or whose hash disagrees
    │   ├── ImageError          3  an image that cannot be read faithfully
    │   ├── AnnotationError     3  COCO json or detections that break their own rules
    │   │   └── UnknownFrame        3  rotated images, and nothing says which way up they were annotated
    │   └── PromptError         3  boxes, points or masks outside their meaning
    ├── RunError                1  a run directory that cannot be used as it is
    │   ├── RunLocked           1  another process is working in it
    │   └── RunMismatch         1  it was begun with another recipe, model or inputs
    ├── OutOfMemory             3  memory is short even for the smallest part of the work
    ├── OutOfDisk               3  the disk is full in the middle of long work; what is finished is kept
    └── InvariantError          4  a promise of saqsam itself does not hold: nothing was written
        └── NumericalError      4  NaN or infinity appeared inside the model

A message has one line: what was being read, what is wrong, what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def first_line(error: BaseException) -> str:
    """What another library's exception says, short enough to stand in a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class SaqsamError(Exception):
    """Base of all errors saqsam raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(SaqsamError):
    """An argument cannot be used as given."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has an unknown key, a value of the wrong type, or an impossible value."""


class InputError(SaqsamError):
    """A file or array handed to saqsam is damaged, foreign or nonsensical."""

    exit_code = 3


class CheckpointError(InputError):
    """A weight file does not fit.

    Args:
        path: the file or directory that was read.
        problem: what is wrong, without a final full stop.
        hint: what to do next, without a final full stop; what is always true if none is given.
    """

    hint_if_none = "Give the weights of a SAM, or write the file again"

    def __init__(self, path: str | Path, problem: str, hint: str = "") -> None:
        hint = hint or self.hint_if_none
        self.path, self.problem, self.hint = str(path), problem, hint
        super().__init__(" ".join(_stopped(part) for part in (f"{path}: {problem}", hint) if part))


def _advised(text: str, hint: str, hint_if_none: str) -> str:
    """A text with what to do next; one that goes on after a semicolon, or asks, has said it already."""
    said = "; " in text or text.endswith("?")
    return text if said and not hint else f"{text}; {hint or hint_if_none}"


def _stopped(sentence: str) -> str:
    """A sentence with its full stop, unless it ends in a mark of its own."""
    return sentence if sentence.endswith(("?", "!", ".")) else f"{sentence}."


class UnsafeCheckpoint(CheckpointError):
    """Opening the file would run code that is stored in it; nothing was run."""


class CorruptCheckpoint(CheckpointError):
    """The file is truncated, or a hash stored in it disagrees with its contents."""

    hint_if_none = "Copy or download it again, or write it again"


class ImageError(InputError):
    """An image cannot be read faithfully.

    Args:
        path: the file, or the name of the argument.
        reason: what is wrong.
        hint: what to do next; what is always true if none is given.
    """

    hint_if_none = "mend this image, or leave it out"

    def __init__(self, path: str | Path, reason: str, hint: str = "") -> None:
        self.path, self.reason = str(path), reason
        super().__init__(_advised(f"{path}: {reason}", hint, self.hint_if_none))


class AnnotationError(InputError):
    """Annotations or detections break their own rules.

    Args:
        path: the file.
        problems: one line for each kind of problem found; the message shows the first 20.
        hint: what to do next, where the lines do not say it themselves.
    """

    SHOWN = 20

    def __init__(self, path: str | Path, problems: Sequence[str], hint: str = "") -> None:
        self.path, self.problems, self.hint = str(path), tuple(problems), hint
        shown = "; ".join(self.problems[: self.SHOWN])
        more = len(self.problems) - self.SHOWN
        total = f" (and {more} more kinds of problem)" if more > 0 else ""
        super().__init__(f"{path}: {shown}{total}" + (f"; {hint}" if hint else ""))


class UnknownFrame(AnnotationError):
    """Images carry an EXIF rotation, and nothing in the set says whether its annotations follow it."""


class PromptError(InputError):
    """A box, point or mask prompt has no meaning on its image."""


class RunError(SaqsamError):
    """A run directory cannot be used as it is."""


class RunLocked(RunError):
    """Another process is working in the run directory; the message names it."""


class RunMismatch(RunError):
    """The run directory was begun with another recipe, model or inputs; the message shows the difference."""


class OutOfMemory(SaqsamError):
    """Memory is short even for the smallest part of the work; the message has the estimate."""

    exit_code = 3


class OutOfDisk(SaqsamError):
    """The disk is full in the middle of long work; what is finished is kept."""

    exit_code = 3


class InvariantError(SaqsamError):
    """A promise of saqsam does not hold at a site of the model.

    Args:
        site: full name of the site, or of the stage, where the promise broke.
        problem: what was found there.
        hint: what to do next; what is always true if none is given.
    """

    exit_code = 4
    hint_if_none = "nothing was written; please report this with the command and its recipe"

    def __init__(self, site: str, problem: str, hint: str = "") -> None:
        self.site, self.problem = site, problem
        super().__init__(_advised(f"{site}: {problem}", hint, self.hint_if_none))


class NumericalError(InvariantError):
    """NaN or infinity appeared at a site; the run was stopped there."""

    hint_if_none = "check the weights and the images"
