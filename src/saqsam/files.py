"""Writing files so that a crash leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saqsam.errors import OutOfDisk

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What writing says when there is no room: the disk, a quota, a limit on the size of files."""


def stop_if_full(path: str | Path, error: OSError) -> None:
    """Tell a full disk from other reasons why ``path`` cannot be written.

    Raises:
        OutOfDisk: there is no room.
    """
    if error.errno in NO_ROOM:
        raise OutOfDisk(f"{path}: no space left ({error.strerror}); make room, then run it again") from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on error it vanishes.

    The temporary file lives in the same directory, is flushed to disk before it is renamed, and
    gets the permissions an ordinary new file would have.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
        _fsync_directory(path.parent)
    except OSError as error:
        if error.filename in (None, name):  # a full disk does not say which file it had no room for
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_directory(directory: Path) -> None:
    """Make a rename durable where the platform lets a directory be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
