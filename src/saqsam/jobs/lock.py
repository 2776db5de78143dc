"""One process at a time in a run directory.

The lock is the operating system's and goes away with the process that holds it, however it ends: there
are no stale locks to judge. The file says who holds it, for the message to the second process.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saqsam.errors import RunLocked

LOCK = "lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock while the block runs.

    Raises:
        RunLocked: another process holds it; the message has its number and machine.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _take(descriptor):
            raise RunLocked(f"{directory}: {_holder(descriptor)} is working here; wait for it, or stop it")
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Whether the lock was free. Where the system has no such locks, directories are not protected."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        found: Any = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {int(found['pid'])} on {str(found['host'])[:100]}"
    except (ValueError, KeyError, TypeError):
        return "another process"
