"""A command line in a copy of the tests' own process: a process to be struck, without seconds of imports."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable

import saqsam.families.sam_modules  # noqa: F401  imported when a float model is made, else by each process
from saqsam.cli import main


def forked(
    arguments: list[str],
    before: Callable[[], None] = lambda: None,
    *,
    stdout: int | None = None,
    stderr: int | None = None,
) -> int:
    """Start ``saqsam`` with ``arguments``; the number of its process.

    Args:
        arguments: the words after ``saqsam``.
        before: called in the new process first.
        stdout: descriptor to print to; None throws it away.
        stderr: descriptor for errors and progress; None is that of the tests.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY) if stdout is None else stdout, 1)
            if stderr is not None:
                os.dup2(stderr, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            before()
            sys.argv = ["saqsam", *arguments]
            main()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 0)
        finally:
            os._exit(99)
    return child


def heed_interrupts() -> None:
    """For ``before``: a shell's background jobs, perhaps these tests, are started with interrupts ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
