"""The prompts of one image: boxes, clicks and low-resolution masks, checked before a model sees them.

Coordinates are pixels of the *displayed* image (after EXIF rotation), x to the right and y down, with
(0, 0) the outer corner of the top-left pixel and (width, height) that of the bottom-right one. Boxes are
``x0, y0, x1, y1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saqsam.errors import PromptError
from saqsam.images.pixels import tensor_values
from saqsam.prompts.clicks import PADDING, padded

FOREGROUND, BACKGROUND = 1, 0


@dataclass(frozen=True)
class Prompts:
    """Prompts of one image, in displayed-image pixels; row p of every field belongs to prompt p.

    Attributes:
        boxes: (P, 4) float32 ``x0, y0, x1, y1``, or None.
        points: (P, K, 2) float32 ``x, y``: K clicks for each prompt, or None.
        labels: (P, K) int64, 1 for a click on the object, 0 for one beside it and -1 for none (padding of a
            prompt with fewer clicks than others); given with ``points``.
        masks: (P, 1, 4g, 4g) float32 logits of an earlier low-resolution mask, g the side of the model's
            embedding grid, or None.

    Raises:
        PromptError: the fields disagree about P or K, or labels come without points.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.points is None) != (self.labels is None):
            raise PromptError("prompts: points and labels come together, only one of them was given")
        _expect_shape("boxes", self.boxes, (None, 4))
        _expect_shape("points", self.points, (None, None, 2))
        _expect_shape("masks", self.masks, (None, 1, None, None))
        if self.points is not None and self.labels is not None and self.labels.shape != self.points.shape[:2]:
            shapes = f"points have shape {tuple(self.points.shape)}, labels {tuple(self.labels.shape)}"
            raise PromptError(f"prompts: every point needs one label, but {shapes}")
        lengths = {name: len(field) for name, field in self._given()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{count} {name}" for name, count in lengths.items())
            hint = "" if self.points is None else "; several clicks on one object have shape (1, K, 2)"
            raise PromptError(
                f"prompts: every prompt needs its own row in each field, but there are {listed}{hint}"
            )

    def _given(self) -> list[tuple[str, Tensor]]:
        fields = (
            ("boxes", self.boxes),
            ("points", self.points),
            ("labels", self.labels),
            ("masks", self.masks),
        )
        return [(name, field) for name, field in fields if field is not None]

    def __len__(self) -> int:
        return next((len(field) for _, field in self._given()), 0)

    def __getitem__(self, rows: slice | Tensor) -> Prompts:
        return Prompts(**{name: field[rows] for name, field in self._given()})

    def repeated(self, times: int) -> Prompts:
        """Every prompt ``times`` times, one after the other."""
        return Prompts(**{name: field.repeat_interleave(times, dim=0) for name, field in self._given()})

    def clicks(self) -> list[list[tuple[float, float]]] | None:
        """The ``x, y`` of each prompt's clicks without padding; None without points."""
        if self.points is None or self.labels is None:
            return None
        return [
            [(float(x), float(y)) for (x, y), label in zip(row, kinds, strict=True) if label != PADDING]
            for row, kinds in zip(self.points.tolist(), self.labels.tolist(), strict=True)
        ]

    def to(self, device: str | torch.device) -> Prompts:
        """The same prompts with every tensor on ``device``."""
        return Prompts(**{name: field.to(device) for name, field in self._given()})


class CheckedPrompts(NamedTuple):
    """What :func:`checked_prompts` has found good for one image.

    Attributes:
        prompts: with a meaning on the image.
        clipped: boxes that reached past the image and were clipped to it.
    """

    prompts: Prompts
    clipped: int


def checked_prompts(
    width: int,
    height: int,
    *,
    boxes: Any = None,
    points: Any = None,
    labels: Any = None,
    masks: Any = None,
    mask_side: int | None = None,
    where: str = "prompts",
) -> CheckedPrompts:
    """Prompts from lists, arrays or tensors, checked against the image they belong to.

    Raises:
        PromptError: as :func:`checked_boxes`, :func:`checked_points` and :func:`checked_masks`; or a prompt
            of nothing but padding.
    """
    clipped = 0
    clean_boxes = clean_points = clean_labels = clean_masks = None
    if boxes is not None:
        clean_boxes, clipped = checked_boxes(boxes, width, height, where=f"{where}: boxes")
    if points is not None:
        clean_points, clean_labels = checked_points(points, labels, width, height, where=f"{where}: points")
    elif labels is not None:
        raise PromptError(f"{where}: labels were given without points; give both")
    if masks is not None:
        clean_masks = checked_masks(masks, mask_side, where=f"{where}: masks")
    if clean_labels is not None and clean_boxes is None and clean_masks is None:
        empty = torch.nonzero((clean_labels == PADDING).all(1)).flatten().tolist()
        if empty:
            raise PromptError(f"{where}: prompt {empty[0]} has neither a box nor a click; give it one")
    return CheckedPrompts(Prompts(clean_boxes, clean_points, clean_labels, clean_masks), clipped)


def checked_boxes(boxes: Any, width: int, height: int, *, where: str) -> tuple[Tensor, int]:
    """Boxes with a meaning on an image of ``width`` x ``height`` pixels.

    A box that reaches past the image is clipped to it and counted; every other fault is an error.

    Args:
        boxes: (P, 4) numbers ``x0, y0, x1, y1`` as lists, an array or a tensor, or a single box (4,); empty
            is allowed.
        width: of the displayed image in pixels.
        height: of the displayed image in pixels.
        where: what to call the boxes in a message, such as the file they come from.

    Returns:
        (P, 4) float32 boxes inside the image, and how many of them were clipped.

    Raises:
        PromptError: not a table of four numbers a row, or a box that is not finite, is inverted, has no
            area, or lies wholly outside the image. The message names the index of the first such box.
    """
    table = _numbers(boxes, where, "box", "each box is four numbers x0, y0, x1, y1")
    if len(table) == 0:
        return torch.zeros((0, 4)), 0
    if table.shape == (4,):
        table = table[None]
    if table.ndim != 2 or table.shape[1] != 4:
        raise PromptError(f"{where}: expected shape (P, 4) for x0, y0, x1, y1, got {table.shape}")
    _refuse_first(
        where, "box", table, ~np.isfinite(table).all(axis=1), "has a coordinate that is not a finite number"
    )
    limits = np.array([width, height, width, height], dtype=np.float64)
    clipped = np.clip(table, 0.0, limits).astype(np.float32)
    span, span_inside = table[:, 2:] - table[:, :2], clipped[:, 2:] - clipped[:, :2]
    _refuse_first(where, "box", table, (span < 0).any(axis=1), "is inverted: it needs x0 < x1 and y0 < y1")
    _refuse_first(where, "box", table, (span == 0).any(axis=1), "has no area: it needs x0 < x1 and y0 < y1")
    outside = (table[:, :2] >= limits[:2]).any(axis=1) | (table[:, 2:] <= 0).any(axis=1)
    _refuse_first(where, "box", table, outside, f"lies wholly outside the {width} x {height} image")
    thin = (span_inside <= 0).any(axis=1)
    _refuse_first(where, "box", table, thin, "has no area left once it is clipped and rounded to float32")
    reaching = ((table[:, :2] < 0) | (table[:, 2:] > limits[2:])).any(axis=1)
    return torch.from_numpy(clipped), int(reaching.sum())


def checked_points(points: Any, labels: Any, width: int, height: int, *, where: str) -> tuple[Tensor, Tensor]:
    """Clicks with a meaning on an image of ``width`` x ``height`` pixels.

    Args:
        points: (P, K, 2) numbers ``x, y``: K clicks for each of P prompts, as lists also of different length;
            (P, 2) is one click each, (2,) a single click.
        labels: (P, K), or (P,) with one click each, or (K,) with one prompt: 1 on the object, 0 beside it,
            -1 no click (its coordinates mean nothing); None means all 1.
        width: of the displayed image in pixels.
        height: of the displayed image in pixels.
        where: what to call the points in a message.

    Returns:
        (P, K, 2) float32 points and (P, K) int64 labels.

    Raises:
        PromptError: a coordinate that is not finite or not on the image, a label other than 1, 0 and -1, or
            not one for each click. The message names the index of the prompt.
    """
    meaning = "each prompt is a list of x, y"
    points, labels = padded(points, labels, where)
    table = _numbers(points, where, "prompt", meaning)
    if len(table) == 0:
        table = np.zeros((0, 1, 2))
    if table.shape == (2,):
        table = table[None]
    if table.ndim == 2:
        table = table[:, None, :]
    if table.ndim != 3 or table.shape[1] == 0 or table.shape[2] != 2:
        raise PromptError(f"{where}: expected shape (P, K, 2) for K points x, y a prompt, got {table.shape}")
    kinds = _checked_labels(labels, table.shape[:2], where)
    table = np.where((kinds == PADDING).numpy()[..., None], 0.0, table)
    finite = np.isfinite(table).all(axis=(1, 2))
    _refuse_first(where, "prompt", table, ~finite, "has a coordinate that is not a finite number")
    off = ((table < 0) | (table > np.array([width, height]))).any(axis=(1, 2))
    _refuse_first(where, "prompt", table, off, f"has a point outside the {width} x {height} image")
    return torch.from_numpy(table.astype(np.float32)), kinds


def _checked_labels(labels: Any, shape: tuple[int, ...], where: str) -> Tensor:
    if labels is None:
        return torch.ones(shape, dtype=torch.int64)
    if isinstance(labels, int) and not isinstance(labels, bool):
        labels = [labels]
    table = _numbers(labels, where, "label", "each label is 1, 0 or -1, one for each point")
    if len(table) == 0:
        table = np.zeros((0, 1))
    if table.ndim == 1 and shape[1] == 1:
        table = table[:, None]
    if table.shape == shape[1:] and shape[0] == 1:
        table = table[None]
    if table.shape != shape:
        raise PromptError(f"{where}: {shape} points need labels of that shape, got {table.shape}")
    bad = ~np.isin(table, (FOREGROUND, BACKGROUND, PADDING)).all(axis=1)
    meaning = "has a label other than 1 (on the object), 0 (beside it) and -1 (no click)"
    _refuse_first(where, "prompt", table, bad, meaning)
    return torch.from_numpy(table.astype(np.int64))


def checked_masks(masks: Any, side: int | None, *, where: str) -> Tensor:
    """Low-resolution mask logits of the size that the model's mask prompt takes.

    Args:
        masks: (P, 1, side, side) or (P, side, side) logits, positive on the object, or (side, side) of one.
        side: of the model's low-resolution masks, four times its embedding grid (256 for the official
            models); None checks only that the masks are square.
        where: what to call the masks in a message.

    Returns:
        (P, 1, side, side) float32.

    Raises:
        PromptError: another size, or a value that is not finite; the message names the index of the mask.
    """
    table = _numbers(masks, where, "mask", "each mask is a square of logits")
    if table.ndim == 2 and len(table):
        table = table[None]
    if table.ndim == 3:
        table = table[:, None]
    wanted = side if side is not None else (table.shape[-1] if table.ndim else 0)
    if len(table) == 0:
        return torch.zeros((0, 1, wanted, wanted))
    if table.ndim != 4 or table.shape[1:] != (1, wanted, wanted):
        raise PromptError(
            f"{where}: a mask prompt is the model's own low-resolution logits, "
            f"shape (P, 1, {wanted}, {wanted}), got {table.shape}; give low_res_logits of an earlier answer"
        )
    with np.errstate(over="ignore"):
        logits = table.astype(np.float32)
    finite = np.isfinite(logits).all(axis=(1, 2, 3))
    if not finite.all():
        raise PromptError(
            f"{where}: mask {int(np.argmin(finite))} holds a value that is not a finite number in float32; "
            "give finite logits"
        )
    for index, one in enumerate(logits):
        if one.min() == 0 and len(levels := np.unique(one)) == 2:
            raise PromptError(
                f"{where}: mask {index} holds 0 and {levels[1]:g} alone, but logits are negative beside an "
                "object; give 8 on it and -8 beside it"
            )
    return torch.from_numpy(logits)


def _numbers(values: Any, where: str, noun: str, meaning: str) -> npt.NDArray[np.float64]:
    """A float64 array with at least one dimension, or an error that says what it should have been."""
    values = _as_arrays(values)
    if np.ma.is_masked(values):
        raise PromptError(f"{where}: some entries are masked; leave those rows out")
    if not isinstance(values, np.ndarray | Sequence) or isinstance(values, str | bytes):
        raise PromptError(f"{where}: {meaning}, got {type(values).__name__}")
    for index, row in enumerate(values if isinstance(values, Sequence) else ()):
        strange = _first_strange(row)
        if strange:
            raise PromptError(f"{where}: {noun} {index} holds {strange}; {meaning}")
    try:
        table = np.asarray(values)
        if table.size and table.dtype.kind not in "iuf":
            raise PromptError(f"{where}: {meaning}, got an array of {table.dtype}")
        return np.atleast_1d(table.astype(np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{where}: {meaning}, got something else ({error})") from error


def _as_arrays(values: Any, depth: int = 0) -> Any:
    """The same nested lists with arrays in place of tensors; numpy alone refuses those with gradients."""
    if isinstance(values, Tensor):
        plain = tensor_values(values)
        return values if plain is None else plain
    if isinstance(values, list | tuple) and depth <= 3:
        return [_as_arrays(value, depth + 1) for value in values]
    return values


def _first_strange(value: Any, depth: int = 0) -> str | None:
    """The first thing in nested lists that is no number, in words: numpy would read "7" as 7."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if depth > 3:
            return "lists nested too deeply"
        return next((found for item in value if (found := _first_strange(item, depth + 1))), None)
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.ndarray):
        return f"{value!r:.40}, which is no number"
    return None


_MEANT = {
    "box": "give x0, y0, x1, y1 in pixels of the image",
    "prompt": "give each click as x, y in pixels of the image, with label 1 on the object or 0 beside it",
}


def _refuse_first(
    where: str, noun: str, table: npt.NDArray[np.float64], bad: npt.ArrayLike, problem: str
) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        index = int(rows[0])
        more = f" ({len(rows)} such in all)" if len(rows) > 1 else ""
        raise PromptError(f"{where}: {noun} {index} {table[index].tolist()} {problem}{more}; {_MEANT[noun]}")


def _expect_shape(name: str, field: Tensor | None, shape: tuple[int | None, ...]) -> None:
    if field is None:
        return
    fits = field.ndim == len(shape) and all(
        w in (None, got) for w, got in zip(shape, field.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("P" if i == 0 else "any" if w is None else str(w) for i, w in enumerate(shape))
        raise PromptError(f"prompts: {name} must have shape ({wanted}), got {tuple(field.shape)}")
