"""The rows of the papers' tables that ``saqsam reproduce`` can repeat, with the figures as published.

All are COCO mask AP on val2017 in percent, prompted with a detector's boxes, or with the boxes of the ground
truth (``boxes``). A figure is only listed where a
source for it could be read; the papers' own tables could not, so most are second-hand, and say so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from saqsam.errors import UsageError

FLOAT = "float"

SUMMARY = "a summary of the paper's tables (papernotes), not the paper itself"
BAQ = "the README of BAQ, which tabulates PTQ4SAM's figures"
PROMPT_SAM = "the README of Prompt-Segment-Anything"
CAR_SAM = "CAR-SAM, quoted"
AHCPTQ_ABSTRACT = "the abstract of AHCPTQ (arXiv 2503.03088)"
TRUTH = "boxes"
"""In place of a detector: the boxes of the ground truth."""

FAULTY = (
    "The published figure contains a fault that its authors name: after reconstruction, about half of the "
    "inputs of every linear and convolutional layer were not quantized, at random. By the released code, "
    "most weights also stayed between grid values. saqsam quantizes all of them, so expect a lower figure."
)
FEWER_VALUES = (
    "The published code's attention grid has 2^bits + 1 values (17 at 4 bits); saqsam's has 2^bits."
)
ONE_IMAGE = (
    "The published clip is decided on one image chosen by hand; here on one that the recipe's seed chooses."
)
STEPS = (
    "The published reconstruction takes 2,000 steps of one image for each unit (10,000 for the last "
    "attention); the recipe's steps, batch and rates are saqsam's own."
)
IMAGES = "The published calibration set is the first 32 images of train2017; saqsam draws 32 with its seed."
NO_FIGURE = "No published figure of this row could be read; none is shown."
OTHER_METHOD = (
    "The published figure is CAR-SAM's own method, which saqsam does not have; here the row's recipe is run "
    "by the same protocol, so the two say which method does better, not whether one was repeated."
)
TRUE_BOXES = (
    "Prompts are the boxes of the ground truth, of val2017 and of the calibration images alike; figures "
    "cannot be compared with those of a detector's boxes."
)
CLEAN = "AHCPTQ's figures were measured with the fault of PTQ4SAM's code mended: all inputs are quantized."
EMPTY = "The published evaluation invents a box on images without detections; saqsam answers with no mask."


@dataclass(frozen=True)
class PaperRow:
    """One row.

    Attributes:
        name: as given on the command line.
        detector: as in ``saqsam detect``; ``boxes`` for those of the ground truth.
        size: of SAM: b, l or h.
        method: the recipe, or ``float``.
        bits: ``w4a4``, ``w6a6``, or ``float``.
        published: mask AP in percent, or None where no source gives it.
        source: where the figure was read.
        settings: changes to the recipe that bring it to the published settings.
        notes: how the published measurement differs from ours.
    """

    name: str
    detector: str
    size: str
    method: str
    bits: str
    published: float | None
    source: str
    settings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_quoted(self) -> bool:
        """Whether the published figure is of a method that saqsam does not have, quoted for comparison."""
        return OTHER_METHOD in self.notes


_DETECTORS = {
    "yolox": "yolox-l",
    "faster-rcnn": "faster-rcnn-r50",
    "h-detr": "h-detr-r50",
    "h-detr-swin-t": "h-detr-swin-t",
    "h-detr-swin-l": "h-detr-swin-l",
    "dino": "dino-focal-l",
    TRUTH: TRUTH,
}
_OLD = (FEWER_VALUES, IMAGES)
_METHOD_NOTES: Mapping[str, tuple[str, ...]] = {
    FLOAT: (),
    "saq-sam": (FAULTY, *_OLD, ONE_IMAGE, STEPS),
    "saq-sam-star": (*_OLD, ONE_IMAGE),
    "ptq4sam-s": _OLD,
    "ptq4sam-l": (FAULTY, *_OLD, STEPS),
    "qdrop": (FAULTY, IMAGES, STEPS),
    "brecq": (FAULTY, IMAGES, STEPS),
    "ahcptq": (CLEAN, *_OLD, STEPS),
}
# What the published runs set differently from the recipe of that name, as recipe settings.
_SAQ = ("clip.images=1", "rel_pos_query=float")
_SETTINGS: Mapping[str, tuple[str, ...]] = {"saq-sam": _SAQ, "saq-sam-star": _SAQ}
_Figures = Mapping[str, float | None]
# (detector, method): source and "size bits" -> AP.
_TABLE: Mapping[tuple[str, str], tuple[str, _Figures]] = {
    ("dino", FLOAT): (PROMPT_SAM, {"b float": 44.5, "l float": 48.6, "h float": 49.1}),
    ("dino", "saq-sam"): (
        SUMMARY,
        {"b w6a6": 42.4, "b w4a4": 33.8, "l w6a6": 48.3, "l w4a4": 46.3, "h w6a6": 48.9, "h w4a4": 47.4},
    ),
    ("dino", "saq-sam-star"): (
        SUMMARY,
        {"b w6a6": 39.4, "b w4a4": 3.5, "l w6a6": 48.0, "l w4a4": 27.8, "h w6a6": 48.2, "h w4a4": 31.6},
    ),
    ("dino", "ptq4sam-l"): (
        SUMMARY,
        {"b w6a6": 40.4, "b w4a4": 14.4, "l w6a6": 48.3, "l w4a4": 36.6, "h w6a6": 48.7, "h w4a4": 43.9},
    ),
    ("dino", "ptq4sam-s"): (
        SUMMARY,
        {"b w6a6": 20.4, "l w6a6": 47.7, "l w4a4": 23.1, "h w6a6": 48.1, "h w4a4": 30.5},
    ),
    ("dino", "qdrop"): (
        SUMMARY,
        {"b w6a6": 38.9, "b w4a4": 11.2, "l w6a6": 47.5, "l w4a4": 27.5, "h w6a6": 48.3, "h w4a4": 41.7},
    ),
    ("dino", "ahcptq"): (AHCPTQ_ABSTRACT, {"l w4a4": 36.6, "b w4a4": None, "b w6a6": None, "l w6a6": None}),
    ("dino", "brecq"): ("", {"b w6a6": None, "b w4a4": None, "l w6a6": None, "l w4a4": None}),
    (TRUTH, FLOAT): (CAR_SAM, {"b float": 55.8}),
    (TRUTH, "saq-sam"): (CAR_SAM, {"b w6a6": 53.3, "b w4a4": 39.3, "l w6a6": 58.7, "l w4a4": 48.5}),
    (TRUTH, "best-closed-form"): (CAR_SAM, {"b w6a6": 53.3, "b w4a4": 39.3, "l w6a6": 58.7, "l w4a4": 48.5}),
    ("yolox", "ahcptq"): ("", {"b w6a6": None, "b w4a4": None}),
    ("yolox", "brecq"): ("", {"b w6a6": None, "b w4a4": None}),
    ("yolox", FLOAT): (BAQ, {"b float": 37.0}),
    ("yolox", "saq-sam"): (SUMMARY, {"b w4a4": 30.3, "l w4a4": 39.0, "h w4a4": 39.9, "b w6a6": None}),
    ("yolox", "ptq4sam-l"): (BAQ, {"b w6a6": 34.3, "b w4a4": 18.4}),
    ("yolox", "ptq4sam-s"): (BAQ, {"b w6a6": 17.4, "b w4a4": 1.2}),
    ("yolox", "qdrop"): (BAQ, {"b w6a6": 33.6, "b w4a4": 13.3}),
    ("h-detr", FLOAT): (PROMPT_SAM, {"b float": 38.2, "l float": 41.5}),
    ("h-detr-swin-t", FLOAT): (PROMPT_SAM, {"b float": 40.0, "l float": 43.5}),
    ("h-detr-swin-l", FLOAT): (PROMPT_SAM, {"b float": 42.5, "l float": 46.3, "h float": 46.8}),
    ("h-detr", "saq-sam"): ("", {"b w6a6": None, "b w4a4": None}),
    ("faster-rcnn", FLOAT): ("", {"b float": None}),
    ("faster-rcnn", "saq-sam"): ("", {"b w6a6": None, "b w4a4": None}),
}


def paper_rows() -> dict[str, PaperRow]:
    """Every row by name: ``<detector>-sam-<size>-[<method>-]<bits>``; without a method it is SAQ-SAM."""
    return {row.name: row for row in _rows()}


def find_row(name: str) -> PaperRow:
    """The row of this name.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    rows = paper_rows()
    if name not in rows:
        close = difflib.get_close_matches(name, rows, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "'saqsam reproduce' alone lists them"
        raise UsageError(f"ROW {name}: no such row; {hint}")
    return rows[name]


def matching(
    rows: Iterable[PaperRow], detector: str | None, size: str | None, method: str | None, bits: str | None
) -> list[PaperRow]:
    """Rows that have all of the given properties; ``None`` leaves one open.

    Args:
        rows: to choose from.
        detector: a detector's name, or how rows' names begin, such as ``dino``; ``boxes``.
        size: of SAM: b, l or h, in any case.
        method: a recipe, or ``float``.
        bits: ``w4a4``, or ``float``.

    Raises:
        UsageError: none is left, or a property is unknown; what there is is named.
    """
    left = list(rows)
    asked: tuple[tuple[str, str | None, Callable[[PaperRow], set[str]]], ...] = (
        ("--detector", detector, lambda row: {row.detector, row.name.partition("-sam-")[0]}),
        ("--size", size, lambda row: {row.size}),
        ("--method", method, lambda row: {row.method}),
        ("--bits", bits, lambda row: {row.bits}),
    )
    for option, value, names in asked:
        if value is None:
            continue
        kept = [row for row in left if value.lower() in names(row)]
        if not kept:
            there = ", ".join(sorted(set().union(*map(names, left))))
            raise UsageError(f"{option} {value}: no row that is left has it; give one of {there}")
        left = kept
    return left


def _notes(detector: str, method: str, published: float | None) -> tuple[str, ...]:
    """How the published measurement differs from ours."""
    if detector == TRUTH:
        return (TRUE_BOXES,) if method == FLOAT else (OTHER_METHOD, TRUE_BOXES)
    known = (*_METHOD_NOTES[method], EMPTY)
    if published is not None:
        return known
    return (NO_FIGURE, *(note for note in known if note not in (FAULTY, CLEAN)))


def _rows() -> Iterator[PaperRow]:
    for (short, method), (source, figures) in _TABLE.items():
        for key, published in figures.items():
            size, bits = key.split()
            middle = "" if method in (FLOAT, "saq-sam") else f"{method}-"
            notes = _notes(short, method, published)
            yield PaperRow(
                name=f"{short}-sam-{size}-{middle}{bits}",
                detector=_DETECTORS[short],
                size=size,
                method=method,
                bits=bits,
                published=published,
                source=source if published is not None else "",
                settings=_SETTINGS.get(method, ()),
                notes=notes,
            )
