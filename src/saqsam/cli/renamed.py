"""Options that had another name in the release before this one; they answer for one release, with a note."""

from __future__ import annotations

from collections.abc import Sequence

_PLACES = ("local", "ray")
"""What ``--engine`` used to mean where it now is ``--on``."""


def with_present_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with old names replaced, and a note for each that was.

    ``--runtime ENGINE`` is ``--engine ENGINE``; ``--engine local|ray`` is ``--on local|ray``.
    """
    present, notes = list(words), []
    for index, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        following = value if equals else (words[index + 1] if index + 1 < len(words) else "")
        if name == "--runtime":
            new = "--engine"
        elif name == "--engine" and following in _PLACES:
            new = "--on"
        else:
            continue
        present[index] = f"{new}{equals}{value}"
        notes.append(f"{name} {following} is {new} {following} now; the old name goes with the next release")
    return present, notes
