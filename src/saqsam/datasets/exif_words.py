"""The words of ``--exif``, apart from what decides, so that the command line starts at once."""

from __future__ import annotations

from saqsam.errors import UsageError

AUTO, STORED, DISPLAYED = "auto", "stored", "displayed"
EXIF = (AUTO, STORED, DISPLAYED)


def check_exif(exif: str, name: str = "exif") -> str:
    """The word, if it is one of :data:`EXIF`.

    Raises:
        UsageError: it is not.
    """
    if exif not in EXIF:
        raise UsageError(f"{name} {exif}: expected {', '.join(EXIF)}")
    return exif
