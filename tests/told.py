"""What a command said on stderr, without the lines that tell how far work has come."""

from __future__ import annotations

import re

PROGRESS = re.compile(r"^saqsam: (starting|[^\n]* \d+/\d+)(, [^\n]* (so far|left)[^\n]*)?\n", re.MULTILINE)


def without_progress(stderr: str) -> str:
    """Text without lines such as ``saqsam: encoder ranges 3/8, 12 s so far, 20 s left``.

    They come where work took more than two seconds, which on a busy machine is any work.
    """
    return PROGRESS.sub("", stderr)
