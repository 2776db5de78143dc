"""The checksums of a PyTorch archive: zip has one for each record, at which PyTorch does not look."""

from __future__ import annotations

import copy
import logging
import zipfile
from pathlib import Path

from saqsam.errors import CorruptCheckpoint

_CHUNK = 1 << 20
_AGAIN = "Download or copy it again"
logger = logging.getLogger("saqsam")


def check_records(path: Path, archive: zipfile.ZipFile) -> None:
    """Read every record once and compare its CRC-32 with what the archive says it is.

    Raises:
        CorruptCheckpoint: one disagrees, which is named, or the records claim more bytes than the file has.
        zipfile.BadZipFile, EOFError: the archive is damaged in its structure.
    """
    entries = archive.infolist()
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size:
        raise CorruptCheckpoint(
            path, f"its records claim {claimed:,} bytes but the file has {size:,}", _AGAIN
        )
    if not any(entry.CRC for entry in entries):
        logger.warning(
            "%s: was written without checksums, so damage to its values would not be noticed", path
        )
        return
    for entry in entries:
        with archive.open(entry) as record:
            try:
                while record.read(_CHUNK):
                    pass
            except zipfile.BadZipFile as error:
                problem = f"is damaged: the CRC-32 of its record '{entry.filename}' disagrees"
                raise CorruptCheckpoint(path, problem, _AGAIN) from error


def read_record(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A record's bytes without a look at its checksum, which :func:`check_records` has judged."""
    unchecked = copy.copy(entry)
    del unchecked.CRC
    with archive.open(unchecked) as record:
        return record.read()
