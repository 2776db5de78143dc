"""Entries of annotation files that cannot be used: counted by kind, and refused or left out together.

One policy serves every file that one piece of work reads (annotations, detections, label files), so that what
is left out of all of them ends in one list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saqsam.errors import AnnotationError, ImageError, InputError, UsageError

STOP, SKIP = "stop", "skip"
ON_ERROR = (STOP, SKIP)
MEND_HINT = "mend these entries, or take them out of the file"
SKIP_HINT = 'mend these entries, or leave them out with --on-error skip (in Python on_error="skip")'


@dataclass(frozen=True)
class Problem:
    """What is wrong with something.

    Attributes:
        kind: the sentence with dots for its values; problems of one kind are counted together.
        text: the whole sentence.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


def problem(pattern: str, *values: object) -> Problem:
    """The problem ``pattern.format(*values)``, whose kind is that of the pattern."""
    if not values:
        return Problem(pattern, pattern)
    return Problem(pattern.replace("{}", "..."), pattern.format(*values))


@dataclass(frozen=True)
class LeftOut:
    """One entry that was not used.

    Attributes:
        file: that holds it.
        entry: which one, such as ``annotation 4 (id 5)``.
        reason: what is wrong with it.
        kind: the reason with dots for its values.
    """

    file: str
    entry: str
    reason: str
    kind: str


@dataclass(frozen=True)
class Fault:
    """A problem, and the entry that has it."""

    entry: str
    problem: Problem


def by_kind(faults: Iterable[Fault]) -> list[str]:
    """One line for each kind of problem: its first example, and how many more there are."""
    first: dict[str, Fault] = {}
    counts: Counter[str] = Counter()
    for fault in faults:
        first.setdefault(fault.problem.kind, fault)
        counts[fault.problem.kind] += 1
    return [_line(fault, counts[kind]) for kind, fault in first.items()]


def _line(fault: Fault, count: int) -> str:
    more = f" (and {count - 1:,} more like it)" if count > 1 else ""
    return f"{fault.entry}: {fault.problem}{more}"


def policy(on_error: str | BadEntries) -> BadEntries:
    """What becomes of bad entries, from the word of an argument.

    Raises:
        UsageError: a word other than ``stop`` and ``skip``.
    """
    return on_error if isinstance(on_error, BadEntries) else BadEntries(on_error)


class BadEntries:
    """What becomes of bad entries, and which there were.

    Args:
        on_error: ``"stop"``: a file with a bad entry is refused. ``"skip"``: bad entries are left out.
        offered: the caller can choose, so that a refusal may name the choice.

    Attributes:
        left_out: every entry left out so far, one record each.

    Raises:
        UsageError: another word.
    """

    def __init__(self, on_error: str = STOP, *, offered: bool = True) -> None:
        if on_error not in ON_ERROR:
            raise UsageError(f"on_error {on_error!r}: expected {' or '.join(ON_ERROR)}")
        self.skip, self.offered = on_error == SKIP, offered
        self.left_out: list[LeftOut] = []
        self._notes: Counter[str] = Counter()
        self._hints: dict[str, None] = {}

    def resolve(self, path: str | Path, faults: Sequence[Fault], hints: Sequence[str] = ()) -> None:
        """Refuse a file for the faults of its entries, or note that those entries are left out.

        Args:
            path: the file.
            faults: what is wrong with its entries.
            hints: what the faults have in common, said first; where entries are left out, a note each.

        Raises:
            AnnotationError: there is a fault, and the policy is to stop.
        """
        if faults and not self.skip:
            hint = SKIP_HINT if self.offered else MEND_HINT
            raise AnnotationError(path, [*hints, *by_kind(faults)], hint)
        self._hints |= dict.fromkeys(hints)
        seen: set[str] = set()
        for fault in faults:
            if fault.entry not in seen:  # an entry with two faults is left out once
                seen.add(fault.entry)
                self.left_out.append(LeftOut(str(path), fault.entry, fault.problem.text, fault.problem.kind))

    def leave_out_image(self, error: ImageError) -> None:
        """Note that an image which cannot be used is left out.

        Raises:
            ImageError: the policy is to stop.
        """
        if not self.skip:
            raise error
        path = Path(error.path)
        self.left_out.append(LeftOut(str(path.parent), path.name, error.reason, "images that cannot be read"))

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was repaired or accepted, to be told in one line."""
        self._notes[what] += count

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing that was repaired, with its count, and for each hint."""
        return (*(f"{count:,} {what}" for what, count in self._notes.items()), *self._hints)

    def notes_beside(self, others: Iterable[str]) -> tuple[str, ...]:
        """Its notes, and those of others that are not its own from an earlier time, with a lower count."""
        foreign = (one for one in others if one.partition(" ")[2] not in self._notes)
        return tuple(dict.fromkeys((*self.notes, *foreign)))

    def refuse_nothing(self, kept: int) -> None:
        """Refuse figures of no image at all.

        Raises:
            InputError: nothing was kept; the message says why.
        """
        if not kept:
            raise InputError("no image could be used: " + "; ".join(left_out_lines(self.left_out)))


def left_out_lines(left_out: Iterable[LeftOut]) -> list[str]:
    """One line for each kind of what was left out: the first example, and how many more there are."""
    return by_kind(Fault(f"{one.file}: {one.entry}", Problem(one.kind, one.reason)) for one in left_out)
