"""Any number of clicks for each prompt: shorter rows are padded, and what is padding never reaches a model.

SAM knows padding points, but its answer changes with their number. Here prompts with the same number of
clicks are decoded together instead, so each gets the answer it would get alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saqsam.errors import PromptError

if TYPE_CHECKING:
    from saqsam.prompts.prompts import Prompts

PADDING = -1
"""Label of a click that is not there."""


def padded(points: Any, labels: Any, where: str) -> tuple[Any, Any]:
    """Rows of clicks brought to one length with padding; anything but lists of unequal length as it is.

    Args:
        points: for each prompt a list of ``x, y``.
        labels: for each prompt a list of as many labels; None means that all clicks are on the object.
        where: what to call the points in a message.

    Raises:
        PromptError: a prompt has not as many labels as clicks.
    """
    counts = _counts(points)
    if len(set(counts)) < 2:
        return points, labels
    if labels is None:
        labels = [[1] * count for count in counts]
    given = [len(row) if _is_row(row) else -1 for row in labels] if _is_row(labels) else []
    if given != counts:
        raise PromptError(
            f"{where}: prompts have {counts[:8]} clicks, but labels are given for {given[:8]}; "
            "give one label for each click"
        )
    most = max(counts)
    points = [[*row, *[[0.0, 0.0]] * (most - count)] for row, count in zip(points, counts, strict=True)]
    labels = [[*row, *[PADDING] * (most - count)] for row, count in zip(labels, counts, strict=True)]
    return points, labels


def _counts(points: Any) -> list[int]:
    """Clicks of each prompt where ``points`` is a list of lists of ``x, y``; else nothing."""
    if not isinstance(points, Sequence) or not all(_is_row(row) for row in points):
        return []
    nested = all(_is_row(click) and len(click) == 2 for row in points for click in row)
    return [len(row) for row in points] if nested else []


def _is_row(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def by_count(prompts: Prompts) -> Iterator[tuple[Tensor | None, Prompts]]:
    """Prompts with the same number of clicks together, their padding left out.

    Yields:
        Which rows they are, ``(R,)`` int64, and the prompts; None and all of them where nothing is padded.
    """
    if prompts.labels is None or not bool((prompts.labels == PADDING).any()):
        yield None, prompts
        return
    counts = (prompts.labels != PADDING).sum(1)
    for count in counts.unique().tolist():
        rows = torch.nonzero(counts == count).flatten()
        yield rows, _without_padding(prompts[rows], int(count))


def _without_padding(prompts: Prompts, count: int) -> Prompts:
    """``prompts`` with their ``count`` real clicks each, in the order they were given."""
    from saqsam.prompts.prompts import Prompts

    if not count or prompts.points is None or prompts.labels is None:
        return Prompts(boxes=prompts.boxes, masks=prompts.masks)
    order = (prompts.labels == PADDING).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    points = torch.take_along_dim(prompts.points, order[..., None], dim=1)
    return Prompts(prompts.boxes, points, prompts.labels.gather(1, order), prompts.masks)
