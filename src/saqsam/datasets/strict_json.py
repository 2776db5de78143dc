"""Reading a stranger's JSON without believing anything it says.

Python's own reader accepts ``NaN``, keeps the last of two equal keys and has no size limit. Each of these
has turned a broken annotation file into a plausible number somewhere; here each is an error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from saqsam.datasets.fields import shown
from saqsam.errors import AnnotationError
from saqsam.files import LFS_POINTER, is_lfs_pointer

MAX_BYTES = 1 << 30
"""Largest JSON file that is read, in bytes; COCO train2017 instances are 0.45 GB."""

_NOT_A_FILE = "is not a file; give the path of a json file"
_ABSENT = "no such file; check the path"
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
"""How zip, gzip, bzip2, xz, 7z and zstd begin."""


class _Refused(ValueError):
    """Found while parsing; turned into an AnnotationError that names the file."""


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES, keep_nan: bool = False) -> Any:
    """The content of a UTF-8 JSON file (RFC 8259), a byte-order mark allowed.

    Args:
        path: the file.
        max_bytes: refuse a longer file. No more than this is ever read, whatever the file's stated size.
        keep_nan: read the tokens ``NaN`` and ``Infinity`` as the floats they mean; for readers that leave out
            the entries which hold them.

    Raises:
        AnnotationError: no such file, empty, too long, not UTF-8, not JSON, nested too deeply, a key that
            comes twice in one object, or the tokens ``NaN`` and ``Infinity``, which JSON does not have.
    """
    path = Path(path)
    content = _read_bytes(path, max_bytes)
    if not content.strip():
        raise AnnotationError(path, ["the file is empty; fetch or write it again"])
    if content.lstrip()[:1] == b"<":
        raise AnnotationError(path, ["this is a web page or XML, not JSON; did the download fail?"])
    if content.startswith(_PACKED):
        raise AnnotationError(path, ["this is an archive, not JSON; unpack it and give the json file in it"])
    if is_lfs_pointer(content):
        raise AnnotationError(path, [LFS_POINTER])
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=float if keep_nan else _refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise AnnotationError(path, [f"not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise AnnotationError(
            path, [f"not valid JSON: {error.msg} ({where}); fetch or write it again"]
        ) from error
    except RecursionError as error:
        raise AnnotationError(
            path, ["brackets are nested too deeply to be annotations; give a COCO json"]
        ) from error
    except _Refused as error:
        raise AnnotationError(path, [f"not valid JSON: {error}; fetch or write it again"]) from error
    except ValueError as error:  # the only other one: an integer that Python refuses to read
        raise AnnotationError(
            path, ["holds a number of thousands of digits; take it out, or fetch or write it again"]
        ) from error


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():
            raise AnnotationError(path, [_NOT_A_FILE if path.exists() else _ABSENT])
        with path.open("rb") as file:
            is_long = os.fstat(file.fileno()).st_size > max_bytes
            content = b"" if is_long else file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise AnnotationError(path, [f"cannot be read ({error}); copy it to a place where it can"]) from error
    if is_long or len(content) > max_bytes:
        limit = f"{max_bytes / 1e6:,.0f} MB" if max_bytes >= 1_000_000 else f"{max_bytes} bytes"
        raise AnnotationError(path, [f"longer than the limit of {limit}; split it, or keep fewer images"])
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {shown(twice)} comes twice in one object, remove one of them")
    return entries


def _refuse_constant(token: str) -> NoReturn:
    hint = "remove the entry that holds it, or leave it out with --on-error skip where there is that option"
    raise _Refused(f"the token {token} is not JSON: {hint}")
