"""How much memory the machine has: Linux promises more, and ends the process that believes it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container."""
_SHARE = 0.7


def usable_memory() -> float:
    """Bytes of the machine's or the container's memory that learning may plan with; infinite if not known.

    It does not depend on what other processes hold at the moment, so that the same run is planned alike.
    """
    try:
        total: float = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # other systems than Linux and macOS
        return math.inf
    with suppress(OSError, ValueError):  # no such file, or the word max
        total = min(total, float(_LIMIT.read_text(encoding="ascii")))
    return _SHARE * total
