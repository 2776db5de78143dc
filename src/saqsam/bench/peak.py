"""How much memory this process ever held; importing nothing, so that what is asked is what is measured."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_bytes() -> int | None:
    """Peak resident memory of this program, or ``None`` where the system does not say.

    On Linux not ``ru_maxrss``: that begins with the peak of the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
