"""What else than a file of weights a path may lead to: the placeholder of a large file."""

from __future__ import annotations

from pathlib import Path

from saqsam.errors import CheckpointError
from saqsam.files import LFS_POINTER, is_lfs_pointer


def refuse_placeholder(path: Path, start: bytes) -> None:
    """Refuse what git leaves in place of a large file that was not fetched.

    Args:
        path: the file, for messages.
        start: its first bytes.

    Raises:
        CheckpointError: it is a Git LFS pointer.
    """
    if is_lfs_pointer(start):
        problem, hint = LFS_POINTER.split("; ")
        raise CheckpointError(path, problem, hint.capitalize())
