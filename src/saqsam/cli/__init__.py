"""The command line: one verb per file, results on stdout, progress and errors on stderr."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``saqsam`` command."""
    from saqsam.cli.app import run

    raise SystemExit(run())
