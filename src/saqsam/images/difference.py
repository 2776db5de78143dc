"""What only one of two models has, so that a person sees it without looking for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from saqsam.images.draw import box_of, enlarged, enlargement
from saqsam.images.labels import Colour, Labels, with_key

ONLY_FIRST, ONLY_SECOND, BOTH, FRAME = (255, 128, 0), (0, 160, 255), (170, 170, 170), (255, 255, 0)
"""Orange and blue: told apart by colour-blind people too."""
_FRAMED, _FRAMES, _SMALLEST = 0.9, 5, 24
"""Objects whose masks overlap less are framed, at most so many, in frames of at least so many pixels."""
Masks = npt.NDArray[np.bool_]


def draw_difference(
    pixels: npt.NDArray[np.uint8], first: Masks, second: Masks, names: tuple[str, str]
) -> Image.Image:
    """The image in dark grey, and on it the pixels that only one of two models gave to an object.

    Objects that differ most are framed with their IoU, so that tiny ones are found too.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        first, second: ``(P, H, W)`` bool, of the same prompts.
        names: of the two, for the key below the picture.
    """
    factor = enlargement(pixels)
    changes: tuple[Masks, ...] = (first & ~second, second & ~first)
    canvas = np.repeat((30 + 0.3 * pixels.mean(axis=2, dtype=np.float32))[..., None], 3, axis=2)
    both = np.any(first & second, axis=0)
    canvas[both] += 0.4 * (np.array(BOTH, np.float32) - canvas[both])
    for change, colour in zip(changes, (ONLY_FIRST, ONLY_SECOND), strict=True):
        canvas[np.any(change, axis=0)] = colour
    picture = Image.fromarray(enlarged(canvas.round().clip(0, 255).astype(np.uint8), factor))
    _frame(picture, first, second, factor)
    key: list[tuple[str, Colour]] = [(f"only {names[0]}", ONLY_FIRST), (f"only {names[1]}", ONLY_SECOND)]
    return with_key(picture, [*key, ("both", BOTH)])


def _frame(picture: Image.Image, first: Masks, second: Masks, factor: int) -> None:
    pen, labels = ImageDraw.Draw(picture), Labels(picture)
    scores = overlaps(first, second)
    for index in np.argsort(scores, kind="stable")[:_FRAMES]:
        if scores[index] >= _FRAMED:
            break
        box = [side * factor for side in box_of(first[index] | second[index])]
        spare = [max(4.0, (_SMALLEST - box[axis + 2] + box[axis]) / 2) for axis in (0, 1)]
        box = [box[0] - spare[0], box[1] - spare[1], box[2] + spare[0], box[3] + spare[1]]
        limits = (picture.width - 1, picture.height - 1) * 2
        box = [min(max(side, 0.0), limit) for side, limit in zip(box, limits, strict=True)]
        pen.rectangle(box, outline=FRAME, width=2)
        labels.write(f"IoU {scores[index]:.2f}", (box[0], box[1] - 16, box[2], box[3]), FRAME)


def overlaps(first: Masks, second: Masks) -> npt.NDArray[np.float64]:
    """IoU ``(P,)`` of masks ``(P, H, W)``; 1 where both are empty."""
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))
