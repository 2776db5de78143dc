"""What a path is that should have been a file of weights, in words."""

from __future__ import annotations

from pathlib import Path

from saqsam.errors import CheckpointError

_LFS = b"version https://git-lfs"


def kind_of(path: Path) -> str:
    """``no such file``, or what the path is if it is no regular file."""
    kinds = {
        "is a directory": path.is_dir,
        "is a pipe, not a file; write what comes out of it to a file first": path.is_fifo,
        "is a device, not a file": lambda: path.is_char_device() or path.is_block_device(),
        "is a socket, not a file": path.is_socket,
    }
    if path.is_symlink() and not path.exists():
        return "is a link to a file that does not exist"
    return next((words for words, holds in kinds.items() if holds()), "no such file")


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
