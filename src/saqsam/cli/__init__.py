"""The command line: one verb per file, results on stdout, progress and errors on stderr."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``saqsam`` command."""
    import signal
    import sys

    _open_what_is_closed()
    # A terminated run unwinds like an interrupted one, so that temporary files go away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from saqsam.cli.app import run
    from saqsam.freed_memory import keep_freed_memory

    keep_freed_memory()
    raise SystemExit(run())


def _open_what_is_closed() -> None:
    """Let standard streams that the caller has closed lead nowhere.

    A closed one would end hours of work at its first line of output, and the next file that is opened would
    take its number, to be written into by whatever prints there.
    """
    import os
    import sys

    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
