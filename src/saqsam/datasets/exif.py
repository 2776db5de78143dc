"""In which frame a set counts pixels: as its images are stored, or as their EXIF tags turn them for display.

COCO counts stored pixels; labelling tools that show an image upright count displayed ones. For an image that
is turned by a quarter and not square, its declared size tells the two apart, and so do boxes that leave it
in one frame only. For mirrored, half-turned and square images nothing does. So the question is asked of the
whole set: what some of its images tell holds for all, and where none tells it is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saqsam.datasets.exif_words import AUTO, DISPLAYED, STORED, check_exif
from saqsam.errors import UnknownFrame
from saqsam.images.headers import ImageHeader, read_header

_AGREED = 0.9
"""Boxes are made by people and detectors, and some stray: so large a share of those that tell decides."""
_FEW = 0.25
"""Fewer boxes than this for each image with a declared size are strays, no contradiction of the sizes."""


@dataclass(frozen=True)
class Picture:
    """One image of a set, and what the set says about it.

    Attributes:
        path: the file.
        size: (height, width) in pixels that its annotations declare; None where they declare none.
        boxes: ``(N, 4)`` XYXY in pixels of the annotations, not clipped.
    """

    path: Path
    size: tuple[int, int] | None = None
    boxes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))


@dataclass(frozen=True)
class Frames:
    """What was decided.

    Attributes:
        apply_exif: one for each image asked about: True for displayed, False for stored; None for an image
            without rotation, where both are the same.
        headers: of the same images; None for a file that cannot be read.
        notes: what was decided and why; empty where no image is rotated.
    """

    apply_exif: tuple[bool | None, ...]
    headers: tuple[ImageHeader | None, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Votes:
    """What the rotated images of a set tell, counted by frame."""

    sizes: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    boxes: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def add(self, picture: Picture, header: ImageHeader) -> None:
        told = told_by_size(picture.size, header)
        if told is not None:
            self.sizes[told] += 1
        for frame, count in told_by_boxes(picture.boxes, header).items():
            self.boxes[frame] += count

    def by_boxes(self) -> bool | None:
        """What the boxes agree on, if they do."""
        total = sum(self.boxes.values())
        return next(
            (frame for frame, count in self.boxes.items() if total and count >= _AGREED * total), None
        )


def decide(
    pictures: Sequence[Picture], source: Path, exif: str = AUTO, *, asked: Sequence[int] | None = None
) -> Frames:
    """The frame of each image, by the evidence of all of them.

    Args:
        pictures: the whole set.
        source: what the set is called in a message, such as its annotation file.
        exif: ``"auto"`` decides; ``"stored"`` and ``"displayed"`` are taken as they are.
        asked: places of the images that will be used; None for all. The others are evidence only, and are
            not looked at where no image in use is rotated.

    Raises:
        UnknownFrame: an image in use is rotated or mirrored, and the set does not tell or contradicts itself.
        UsageError: no such word.
    """
    check_exif(exif)
    places = range(len(pictures)) if asked is None else asked
    headers = {place: read_header(pictures[place].path) for place in places}
    rotated = [place for place, header in headers.items() if header is not None and header.orientation != 1]
    frames: dict[int, bool] = {}
    notes: tuple[str, ...] = ()
    if exif != AUTO:
        frames = dict.fromkeys(rotated, exif == DISPLAYED)
        if rotated:
            notes = (f"EXIF: {_counted(len(rotated))} taken as {exif}, as asked",)
    elif rotated:
        frames, notes = _by_evidence(pictures, headers, rotated, source)
    return Frames(tuple(frames.get(place) for place in places), tuple(headers[one] for one in places), notes)


def _by_evidence(
    pictures: Sequence[Picture], headers: dict[int, ImageHeader | None], rotated: Sequence[int], source: Path
) -> tuple[dict[int, bool], tuple[str, ...]]:
    votes = _Votes()
    for place, picture in enumerate(pictures):
        header = headers[place] if place in headers else read_header(picture.path)
        if header is not None:
            votes.add(picture, header)
    counted = _counted(len(rotated))
    if votes.sizes[False] and votes.sizes[True]:
        own = {place: _own_size(pictures[place], headers[place]) for place in rotated}
        sure = {place: told for place, told in own.items() if told is not None}
        silent = [pictures[place].path.name for place, told in own.items() if told is None]
        said = (
            f"{votes.sizes[False]} images declare their size as stored and {votes.sizes[True]} as displayed"
        )
        if silent:
            raise _unknown(source, f"{said}, and {len(silent)} tell nothing", silent[0])
        return sure, (f"EXIF: {said}; each of the {counted} was taken as its own size says",)
    by_size = next((frame for frame, count in votes.sizes.items() if count), None)
    by_boxes = votes.by_boxes()
    first = pictures[rotated[0]].path.name
    if (
        by_size is not None
        and by_boxes == (not by_size)
        and votes.boxes[by_boxes] >= votes.sizes[by_size] / 4
    ):
        raise _unknown(
            source,
            f"{votes.sizes[bool(by_size)]} images declare their size as {_word(bool(by_size))}, but "
            f"{votes.boxes[bool(by_boxes)]} boxes fit only as {_word(bool(by_boxes))}",
            first,
        )
    decided = by_boxes if by_size is None else by_size
    if decided is None:
        raise _unknown(source, _silence(votes, len(rotated)), first)
    why = (
        f"{votes.sizes[decided]} declare that size"
        if by_size is not None
        else f"{votes.boxes[decided]} boxes fit only so"
    )
    other = DISPLAYED if not decided else STORED
    note = f"EXIF: {counted} taken as {_word(decided)} ({why}); --exif {other} takes them the other way"
    return dict.fromkeys(rotated, decided), (note,)


def told_by_size(size: tuple[int, int] | None, header: ImageHeader) -> bool | None:
    """True where only the displayed image has the declared (height, width), False for only the stored one."""
    if header.stored == header.displayed or size not in (header.stored, header.displayed):
        return None
    return size == header.displayed


def told_by_boxes(boxes: npt.NDArray[np.float64], header: ImageHeader) -> dict[bool, int]:
    """How many ``(N, 4)`` XYXY boxes fit the image in one frame and clearly leave it in the other.

    Keys are True for displayed and False for stored. A box leaves where it reaches past the image by more
    than 2 pixels and 2 % of its side.
    """
    if header.stored == header.displayed or not len(boxes):
        return {False: 0, True: 0}
    past = {
        frame: (boxes[:, 2:] - (width, height)) / (width, height)
        for frame, (height, width) in ((False, header.stored), (True, header.displayed))
    }
    least = max(0.02, 2 / min(header.stored))
    fits = {frame: (over <= 0.5 / min(header.stored)).all(1) for frame, over in past.items()}
    leaves = {frame: (over > least).any(1) for frame, over in past.items()}
    return {frame: int((fits[frame] & leaves[not frame]).sum()) for frame in (False, True)}


def _own_size(picture: Picture, header: ImageHeader | None) -> bool | None:
    return None if header is None else told_by_size(picture.size, header)


def _silence(votes: _Votes, rotated: int) -> str:
    if any(votes.boxes.values()):
        return (
            f"{votes.boxes[False]} boxes fit only as stored and {votes.boxes[True]} only as displayed, "
            "so they do not decide"
        )
    return f"nothing in the set tells the frame of {_counted(rotated)}"


def _unknown(source: Path, why: str, example: str) -> UnknownFrame:
    problem = f"does it count pixels of images as stored, or as displayed after EXIF rotation? {why}"
    advice = (
        f"an example is {example}; pass --exif stored (as COCO counts) or --exif displayed (as shown upright)"
        ", in Python exif='stored' or exif='displayed'"
    )
    return UnknownFrame(source, [problem, advice])


def _counted(images: int) -> str:
    return "1 rotated or mirrored image" if images == 1 else f"{images} rotated or mirrored images"


def _word(displayed: bool) -> str:
    return DISPLAYED if displayed else STORED


def table(boxes: Iterable[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Boxes as ``(N, 4)`` float64, also where there are none."""
    return np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
