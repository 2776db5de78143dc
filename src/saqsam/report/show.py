"""Pictures of results, one file for each image, for whoever wants to look at them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from saqsam.errors import UsageError
from saqsam.files import atomic_write


def make_show_directory(directory: Path | None) -> None:
    """Create the folder for pictures, if one was asked for; pictures of the same name are replaced.

    Raises:
        UsageError: it is a file, or cannot be made.
    """
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--show-dir {directory}: cannot be made a folder ({error.strerror})") from error


def save_picture(directory: Path, name: str, picture: Image.Image) -> Path:
    """Write ``picture`` as ``<directory>/<name without ending>.png`` and return that path."""
    path = directory / f"{Path(name).stem}.png"
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
