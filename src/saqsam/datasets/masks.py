"""COCO segmentations: checked in Python first, rasterised in C afterwards.

The C code behind COCO masks trusts its input: a NaN in a polygon, coordinates far outside the image or run
lengths that do not add up end in a crash or in memory that was never written. Nothing reaches it here
before :func:`outline_problem` has found no fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle

from saqsam.datasets.bad_entries import Problem, problem
from saqsam.datasets.fields import is_finite, is_object, shown

Mask = npt.NDArray[np.bool_]


class Rle(TypedDict):
    """A COCO run-length code: ``size`` is [height, width], ``counts`` the compressed runs in column order."""

    size: list[int]
    counts: bytes


MAX_EDGE = 1_000_000
"""Longest outline of one object, in pixels: the C code takes some 60 bytes for each while drawing it."""


def plain_outline(outline: Any) -> tuple[Any, str | None]:
    """A ``segmentation`` in COCO's own form, and a note on how it was written if it was written otherwise.

    Besides ``[[x0, y0, x1, y1, ...], ...]``, three forms can only mean one thing: one flat list of numbers,
    a list of corners ``[x, y]``, and either of these two with one pair of brackets too many.
    """
    if not isinstance(outline, list) or not outline:
        return outline, None
    if all(isinstance(value, int | float) for value in outline):
        return [outline], "polygons written as one flat list of numbers"
    if not all(isinstance(part, list) for part in outline):
        return outline, None
    if _is_corners(outline):
        return [[side for corner in outline for side in corner]], "polygons written as lists of corners"
    if all(part and all(isinstance(inner, list) for inner in part) for part in outline):
        if all(_is_corners(part) for part in outline):
            flat = [[side for corner in part for side in corner] for part in outline]
            return flat, "polygons written as lists of corners"
        return [inner for part in outline for inner in part], "polygons with one pair of brackets too many"
    return outline, None


def _is_corners(part: list[Any]) -> bool:
    """True for three or more ``[x, y]``."""
    return len(part) > 2 and all(
        isinstance(corner, list)
        and len(corner) == 2
        and all(isinstance(side, int | float) for side in corner)
        for corner in part
    )


def outline_problem(outline: Any, height: int, width: int) -> Problem | None:
    """What is wrong with an annotation's plain ``segmentation`` on a ``height`` x ``width`` image, or None.

    Polygons: lists of x0, y0, x1, y1, ... in pixels, at least three corners, every coordinate finite and at
    most the image's side away from it, all edges together at most ``MAX_EDGE`` long. Run-length codes:
    ``size`` equal to the image's and runs, compressed or not, that are not negative and add up to
    height x width.
    """
    if isinstance(outline, list):
        if not outline:
            return problem("segmentation is an empty list")
        found = next((fault for part in outline if (fault := _polygon_problem(part, height, width))), None)
        if found is not None:
            return found
        # An edge is at most three sides long, which settles the matter for outlines of usual length.
        at_most = sum(map(len, outline)) / 2 * 3 * max(height, width)
        if at_most > MAX_EDGE and (length := edge_length(outline)) > MAX_EDGE:
            return problem(
                "the edges of its polygon are {} pixels long, the limit is {}: are its corners in order?",
                f"{length:,.0f}",
                f"{MAX_EDGE:,}",
            )
        return None
    if is_object(outline):
        return _rle_problem(outline, height, width)
    return problem("segmentation {} is neither polygons nor a run-length code", shown(outline))


def edge_length(outline: Any) -> float:
    """Pixels along the edges of all polygons, which is what drawing them costs; 0 for run-length codes."""
    if not isinstance(outline, list):
        return 0.0
    total = 0.0
    for polygon in outline:
        corners = np.array([*polygon[-2:], *polygon], dtype=np.float64).reshape(-1, 2)
        total += float(np.abs(corners[1:] - corners[:-1]).max(1).sum())
    return total


def _polygon_problem(polygon: Any, height: int, width: int) -> Problem | None:
    kinds = set(map(type, polygon)) if isinstance(polygon, list) else {list}
    if list in kinds:
        return problem(
            "segmentation holds {} where a polygon, a list of numbers, is expected: write "
            "[[x0, y0, x1, y1, x2, y2, ...]]",
            shown(polygon),
        )
    if len(polygon) < 6:
        return problem("polygon has {} numbers: three corners need at least 6", len(polygon))
    if len(polygon) % 2:
        return problem("polygon has {} numbers, an odd count: x or y of a corner is missing", len(polygon))
    if kinds <= {int, float} and _near(polygon, height, width):
        return None
    for start, side in ((0, width), (1, height)):
        for value in polygon[start::2]:
            if not is_finite(value):
                return problem("polygon coordinate {} is not a finite number", shown(value))
            if not -side <= value <= 2 * side:
                return problem(
                    "polygon coordinate {} = {} is far outside the {} x {} image",
                    "xy"[start],
                    shown(value),
                    width,
                    height,
                )
    return None


def _near(polygon: list[float], height: int, width: int) -> bool:
    """True where all coordinates are finite and near their image; a False is looked at one by one."""
    xs, ys = polygon[::2], polygon[1::2]
    low, high = min(xs), max(xs)  # a NaN fails one of the comparisons, or is found by the sum
    inside = -width <= low and high <= 2 * width and -height <= min(ys) and max(ys) <= 2 * height
    return inside and sum(polygon) == sum(polygon)


def _rle_problem(code: Mapping[str, Any], height: int, width: int) -> Problem | None:
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        return problem(
            "run-length size {} is not the image's [height, width] = [{}, {}]", shown(size), height, width
        )
    if isinstance(counts, str):
        runs = decompress_counts(counts)
        if runs is None:
            return problem("compressed run-length counts {} are damaged or truncated", shown(counts, 30))
    elif isinstance(counts, list):
        runs = counts
        wrong = [run for run in runs if isinstance(run, bool) or not isinstance(run, int)]
        if wrong:
            return problem("run length {} is not an integer", shown(wrong[0]))
    else:
        return problem("run-length counts {} must be a string or a list of integers", shown(counts))
    if any(run < 0 for run in runs):
        return problem("run length {} is negative", shown(min(runs)))
    if sum(runs) != height * width:
        return problem("run lengths add up to {}, but height x width is {}", shown(sum(runs)), height * width)
    return None


def decompress_counts(counts: str) -> list[int] | None:
    """Run lengths of COCO's compressed code, or None where the text is no such code.

    Each number is written in groups of five bits, least first, one character (48 + group) each; bit 5 says
    that another group follows, bit 4 of the last group is the sign. From the fourth number on, the
    difference to the number two places earlier is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        # Seven groups hold 35 bits: more is no length of any image, and would overflow in C.
        if not 0 <= group < 64 or shift > 30:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 and runs else None


def rasterise(outline: Any, height: int, width: int) -> Rle:
    """The run-length code of a segmentation in which :func:`outline_problem` found no fault."""
    if isinstance(outline, list):
        parts = [[float(value) for value in polygon] for polygon in outline]
        return _as_rle(rle.merge(rle.frPyObjects(parts, height, width)))
    if isinstance(outline["counts"], str):
        return Rle(size=[height, width], counts=outline["counts"].encode("ascii"))
    return _as_rle(rle.frPyObjects({"size": [height, width], "counts": outline["counts"]}, height, width))


def encode_mask(mask: Mask) -> Rle:
    """The run-length code of an (H, W) bool mask."""
    return _as_rle(rle.encode(np.asfortranarray(mask.astype(np.uint8))))


def decode_mask(code: Rle) -> Mask:
    """The (H, W) bool mask of a run-length code made here."""
    return np.asarray(rle.decode(code), dtype=np.bool_)


def mask_area(code: Rle) -> int:
    """Number of pixels."""
    return int(rle.area(code))


def mask_box(code: Rle) -> tuple[float, float, float, float]:
    """``x0, y0, x1, y1`` around the pixels of a mask; all zero where it has none."""
    x, y, width, height = (float(side) for side in rle.toBbox(code))
    return x, y, x + width, y + height


def pairwise_iou(codes: Sequence[Rle], others: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """(len(codes), len(others)) intersection over union; two masks without a pixel score 0."""
    if not codes or not others:
        return np.zeros((len(codes), len(others)))
    return np.asarray(rle.iou(list(codes), list(others), [0] * len(others)), dtype=np.float64)


def _as_rle(code: Mapping[str, Any]) -> Rle:
    counts = code["counts"]
    text = counts if isinstance(counts, bytes) else str(counts).encode("ascii")
    return Rle(size=[int(side) for side in code["size"]], counts=text)
