"""The weight files that facebookresearch/segment-anything published, and whether a file is one of them.

The hexadecimal digits in their names are the first of the MD5; what is compared here is the SHA-256.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from saqsam.errors import CorruptCheckpoint

logger = logging.getLogger("saqsam")


@dataclass(frozen=True)
class OfficialFile:
    """A published file: its name, its size in bytes, its hash in hexadecimal."""

    name: str
    size: int
    sha256: str


OFFICIAL_FILES = (
    OfficialFile(
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    OfficialFile(
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    OfficialFile(
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
)
_AGAIN = "Download it again, or rename it if these are weights of your own"


def is_official_file(path: Path) -> bool:
    """Whether a file is a published one to the last bit; only one that has its name or size is read for that.

    Raises:
        CorruptCheckpoint: it has the name of a published file and is another.
    """
    size = path.stat().st_size
    named = next((file for file in OFFICIAL_FILES if file.name == path.name), None)
    if named is not None and named.size != size:
        problem = f"has {size:,} bytes, the published file of this name has {named.size:,}"
        raise CorruptCheckpoint(path, problem, _AGAIN)
    like = named or next((file for file in OFFICIAL_FILES if file.size == size), None)
    if like is None:
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == like.sha256:
        return True
    if named is not None:
        problem = (
            f"its sha256 begins {found[:12]}, that of the published file of this name {like.sha256[:12]}"
        )
        raise CorruptCheckpoint(path, problem, _AGAIN)
    logger.warning("%s: as large as the published %s, but not that file", path, like.name)
    return False
