"""The command line: one verb per file, results on stdout, progress and errors on stderr."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``saqsam`` command."""
    import signal
    import sys

    # A terminated run unwinds like an interrupted one, so that temporary files go away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from saqsam.bench.memory import keep_freed_memory
    from saqsam.cli.app import run

    keep_freed_memory()
    raise SystemExit(run())
