"""Options that several verbs share, and the checks made before any work starts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from saqsam.datasets.bad_entries import ON_ERROR, BadEntries
from saqsam.errors import UsageError
from saqsam.files import is_url, what_is_there

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="nano, small (both also with -outliers), an official .pth, a transformers directory or hub id "
        "(also id@revision), or a packed file; NAME#OPTION=VALUE sets an option of loading.",
    ),
]
ImagesOption = Annotated[Path, typer.Option("--images", help="Folder of images.", metavar="DIR")]
AnnotationsOption = Annotated[
    Path, typer.Option("--annotations", help="COCO instances json of these images.", metavar="FILE")
]
PromptsOption = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="boxes (ground truth), points (one click per object), or a COCO-results detections json.",
        metavar="boxes|points|FILE",
    ),
]
BitsOption = Annotated[
    str | None, typer.Option("--bits", help="Weight and activation bits, such as w4a8.", metavar="wXaY")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one recipe key, such as clip.focus_threshold=0.6; repeatable.",
        metavar="KEY=VALUE",
    ),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(
        "--only", help="Quantize this half alone, leave the other float.", metavar="encoder|decoder"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", help="Use only the first N images.", min=1, metavar="N")
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", help="Of detections, keep the best N of each image.", min=1, metavar="N"),
]
ScoreThresholdOption = Annotated[
    float | None,
    typer.Option("--score-threshold", help="Drop detections with a lower score.", metavar="X"),
]
OnErrorOption = Annotated[
    str,
    typer.Option(
        "--on-error",
        help="stop: a bad annotation or a missing picture ends it. skip: they are left out and listed.",
        metavar="stop|skip",
    ),
]
ExifOption = Annotated[
    str,
    typer.Option(
        "--exif",
        help="Frame of annotations on images that an EXIF tag rotates: as stored, or as displayed upright. "
        "auto: decided by the whole set.",
        metavar="auto|stored|displayed",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="torch device to compute on.")]


def _limit_pixels(context: typer.Context, max_pixels: int | None) -> int | None:
    if max_pixels is not None and not context.resilient_parsing:
        from saqsam.images.files import pixel_limit

        context.with_resource(pixel_limit(max_pixels))
    return max_pixels


MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        help="Refuse images with more pixels; they take memory.  [default: 89000000]",
        min=1,
        metavar="N",
        callback=_limit_pixels,
    ),
]
"""Holds until the verb has ended, for every image it reads; the verb itself need not look at it."""

PROMPT_WORDS = ("boxes", "points")


def check_exists(path: Path, option: str) -> Path:
    """The path, if something is there.

    Raises:
        UsageError: there is nothing, or it is an address on a network.
    """
    if not path.exists():
        raise UsageError(f"{option} {path}: expected a file or a directory; {_found_there(path)}")
    return path


def _found_there(path: Path) -> str:
    if is_url(path):
        return "this is an address, and nothing is fetched here; download it and give the file"
    return what_is_there(path)


def check_directory(path: Path, option: str) -> Path:
    """The path, if it is a directory.

    Raises:
        UsageError: it is missing, or a file.
    """
    if not path.is_dir():
        found = (
            "it is a file"
            if path.exists()
            else _found_there(path).replace("no such file", "no such directory")
        )
        raise UsageError(f"{option} {path}: expected a directory; {found}")
    return path


def check_file(path: Path, option: str) -> Path:
    """The path, if it is a file.

    Raises:
        UsageError: it is missing, or a directory, a pipe or a device.
    """
    if not path.is_file():
        raise UsageError(f"{option} {path}: expected a file; {_found_there(path)}")
    return path


def check_on_error(word: str) -> BadEntries:
    """What becomes of bad entries of the files that are read.

    Raises:
        UsageError: neither ``stop`` nor ``skip``.
    """
    if word not in ON_ERROR:
        raise UsageError(f"--on-error {word}: expected {' or '.join(ON_ERROR)}")
    return BadEntries(word)


def check_prompts(text: str) -> str | Path:
    """``boxes``, ``points``, or the path of an existing detections file.

    Raises:
        UsageError: neither one of the words nor a file.
    """
    if text in PROMPT_WORDS:
        return text
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"--prompts {text}: expected boxes, points, or an existing detections json")
    return path


def check_choice_of_detections(prompts: str | Path, top_k: int | None, score_threshold: float | None) -> None:
    """``--top-k`` and ``--score-threshold`` choose among detections, so there must be some.

    Raises:
        UsageError: prompts come from annotations, or the threshold is not a finite number.
    """
    if top_k is None and score_threshold is None:
        return
    if prompts in PROMPT_WORDS:
        option = "--score-threshold" if top_k is None else "--top-k"
        raise UsageError(f"{option}: chooses among detections; give --prompts FILE instead of {prompts}")
    if score_threshold is not None and not math.isfinite(score_threshold):
        raise UsageError(f"--score-threshold {score_threshold}: expected a finite number")


def check_output(path: Path, option: str, force: bool) -> Path:
    """The path, if a file can be written there.

    Raises:
        UsageError: it exists and ``force`` is not set, it is a directory, or its directory is missing.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path}: this is a directory; name a file")
    if path.exists() and not force:
        raise UsageError(f"{option} {path}: this file exists; choose another name or add --force")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no directory {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: the directory {path.parent} cannot be written to; choose another")
    return path


def check_outputs(paths: Iterable[tuple[Path | None, str]], force: bool) -> None:
    """:func:`check_output` for every path that was given; no two may be the same file.

    Raises:
        UsageError: as there, or two options name one file.
    """
    seen: dict[Path, str] = {}
    for path, option in paths:
        if path is None:
            continue
        check_output(path, option, force)
        place = path.resolve()
        if place in seen:
            raise UsageError(f"{seen[place]} and {option} name the same file {path}; give each its own")
        seen[place] = option


def make_directory(path: Path, option: str, force: bool) -> Path:
    """Create a directory for results, or accept an empty one.

    Raises:
        UsageError: it is a file, holds files and ``force`` is not set, or cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option} {path}: this is a file; name a directory")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise UsageError(f"{option} {path}: this directory is not empty; choose another or add --force")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{option} {path}: cannot be made a directory ({error.strerror}); choose another"
        ) from error
    return path


def numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """``"1,2.5"`` as ``count`` floats.

    Raises:
        UsageError: another count, or something that is not a number.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        shape = "x0,y0,x1,y1" if count == 4 else "x,y"
        raise UsageError(f"{option} {text}: expected {count} numbers, {shape}, in pixels")
    return values
