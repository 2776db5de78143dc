"""What stands at a path; and writing so that a crash leaves the old file or the new, never half of one."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saqsam.errors import OutOfDisk, UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What writing says when there is no room: the disk, a quota, a limit on the size of files."""

_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""A scheme of two letters or more (one is a drive) and a slash; or a picture that stands in its address."""

LFS_POINTER = (
    "this is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull' where it was cloned, or "
    "download it again"
)


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file begins as what git leaves in place of a large one that was not fetched."""
    return start.startswith(b"version https://git-lfs")


def is_url(path: str | Path) -> bool:
    """Whether this is an address, not a path that exists; a ``Path`` of it has one slash of the two."""
    return _ADDRESS.match(str(path)) is not None and not os.path.exists(path)


def expanded(path: str | Path) -> Path:
    """The path with ``~`` as the home directory.

    Raises:
        UsageError: this is no path at all, or there is no such home directory.
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"{path!r}: expected a path or a name, got {type(path).__name__}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home directory; write the whole path") from error


def what_is_there(path: Path) -> str:
    """What stands at a path where a regular file was expected, in words."""
    if path.is_dir():
        return "it is a directory"
    if path.is_fifo() or path.is_char_device() or path.is_block_device() or path.is_socket():
        return "it is a pipe or a device; write its content to a file first"
    if path.is_symlink():
        return "it is a link to a file that is not there; give the file itself"
    return "there is no such file"


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

    Raises:
        UsageError: the folder does not exist.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=".part")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: its folder does not exist; create it first") from error
    except OSError as error:
        error.filename = str(path)
        raise
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
