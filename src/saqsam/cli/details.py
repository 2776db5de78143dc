"""``saqsam -v``: what was chosen and why, on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def details() -> Iterator[None]:
    """Show what the library logs for the curious; estimates and warnings come with the progress bars."""
    logger = logging.getLogger("saqsam")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno < logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
