"""Standard error kept free of what C libraries print there on their own."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Collect lines that are written to file descriptor 2 inside the block.

    libtiff, for one, reports a damaged file there and gives its caller a bare error number. The descriptor
    belongs to the process: lines that other threads write meanwhile are collected as well.

    Yields:
        A list that holds the lines, in order, once the block has ended.
    """
    lines: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error to keep clean
        yield lines
        return
    try:
        with tempfile.TemporaryFile() as written:
            _flush()
            os.dup2(written.fileno(), 2)
            try:
                yield lines
            finally:
                _flush()
                os.dup2(kept, 2)
                written.seek(0)
                text = written.read(1 << 16).decode("utf-8", "replace")
                lines += [line.strip() for line in text.splitlines() if line.strip()]
    finally:
        os.close(kept)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
