"""Notes on what was decided and what looks wrong: beside the result, and on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from saqsam.cli.output import print_lines


def print_notes(notes: Sequence[str], json: bool) -> None:
    """Say each note below the table on stdout (a JSON object has its own), and on stderr.

    Where both are one terminal, each is said once.
    """
    lines = [f"note: {note}" for note in dict.fromkeys(notes)]
    if not json:
        print_lines(lines)
    if json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        for line in lines:
            sys.stderr.write(f"{line}\n")
