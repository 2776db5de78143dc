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

from saqsam.tasks.fields import is_finite, is_object, shown

Mask = npt.NDArray[np.bool_]


class Rle(TypedDict):
    """A COCO run-length code: ``size`` is [height, width], ``counts`` the compressed runs in column order."""

    size: list[int]
    counts: bytes


def outline_problem(outline: Any, height: int, width: int) -> str | None:
    """What is wrong with an annotation's ``segmentation`` on a ``height`` x ``width`` image, or None.

    Polygons: lists of x0, y0, x1, y1, ... in pixels, at least three corners, every coordinate finite and
    from -1 to twice the image's side. Run-length codes: ``size`` equal to the image's and runs, compressed
    or not, that are not negative and add up to height x width.
    """
    if isinstance(outline, list):
        if not outline:
            return "segmentation is an empty list"
        return next((fault for part in outline if (fault := _polygon_problem(part, height, width))), None)
    if is_object(outline):
        return _rle_problem(outline, height, width)
    return f"segmentation {shown(outline)} is neither polygons nor a run-length code"


def _polygon_problem(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list):
        return f"segmentation holds {shown(polygon)} where a polygon, a list of numbers, is expected"
    if len(polygon) < 6:
        return f"polygon has {len(polygon)} numbers: three corners need at least 6"
    if len(polygon) % 2:
        return f"polygon has {len(polygon)} numbers, an odd count: x or y of a corner is missing"
    for start, side in ((0, width), (1, height)):
        for value in polygon[start::2]:
            if not is_finite(value):
                return f"polygon coordinate {shown(value)} is not a finite number"
            if not -1 <= value <= 2 * side:
                axis = "xy"[start]
                return (
                    f"polygon coordinate {axis} = {shown(value)} is far outside the {width} x {height} image"
                )
    return None


def _rle_problem(code: Mapping[str, Any], height: int, width: int) -> str | None:
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        return f"run-length size {shown(size)} is not the image's [height, width] = [{height}, {width}]"
    if isinstance(counts, str):
        runs = decompress_counts(counts)
        if runs is None:
            return f"compressed run-length counts {shown(counts, 30)} are damaged or truncated"
    elif isinstance(counts, list):
        runs = counts
        wrong = [run for run in runs if isinstance(run, bool) or not isinstance(run, int)]
        if wrong:
            return f"run length {shown(wrong[0])} is not an integer"
    else:
        return f"run-length counts {shown(counts)} must be a string or a list of integers"
    if any(run < 0 for run in runs):
        return f"run length {shown(min(runs))} is negative"
    if sum(runs) != height * width:
        return f"run lengths add up to {shown(sum(runs))}, but height x width is {height * width}"
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
