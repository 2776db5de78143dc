"""What becomes of freed memory, where the C library is glibc: it is kept for the next tensor, or given back.

By itself glibc gives large tensors back to the system after every operation.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLD = 1 << 30
_LEGACY_THRESHOLD = 32 << 20
"""The most that glibc accepted before 2.35."""


def keep_freed_memory() -> bool:
    """Raise the thresholds of malloc for this process, where its C library is glibc.

    Without it, every large tensor is fresh memory whose pages the system has to clear: PyTorch is up to 1.4
    times slower on the CPU. With it, the process holds on to the most it ever needed. It is a setting of the
    whole process, so the command line makes it and the library, on import, does not.

    Returns:
        Whether it was done; ``False`` on other systems and C libraries, and where the environment already
        says what malloc shall do.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    done = bool(library.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)) or bool(
        library.mallopt(_M_MMAP_THRESHOLD, _LEGACY_THRESHOLD)
    )
    return done and bool(library.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD))


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed and still holds.

    For between two stages that need tensors of other sizes: those of the second do not fit into the gaps that
    the first left, so that a process that keeps freed memory would come to hold both. Nothing else changes,
    and on other systems and C libraries nothing happens.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def give_back_pages(mapped: Iterable[tuple[int, int]]) -> None:
    """Leave to the system what was read of mapped files; it comes from them again when it is asked for.

    On other systems than Linux nothing happens.

    Args:
        mapped: address and bytes of whole private mappings of files that nobody wrote to.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        for address, size in mapped:
            library.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
