"""What else than a file of weights a path may lead to: a placeholder, an address."""

from __future__ import annotations

from pathlib import Path

from saqsam.errors import CheckpointError

_LFS = b"version https://git-lfs"


def refuse_placeholder(path: Path, start: bytes) -> None:
    """Refuse what git leaves in place of a large file that was not fetched.

    Args:
        path: the file, for messages.
        start: its first bytes.

    Raises:
        CheckpointError: it is a Git LFS pointer.
    """
    if start.startswith(_LFS):
        raise CheckpointError(
            path,
            "this is a Git LFS pointer, not the file itself",
            "Fetch it with 'git lfs pull' where it was cloned, or download it again",
        )


def looks_like_url(name: str) -> bool:
    """Whether a name is an address on the network rather than a path."""
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.isalnum()
