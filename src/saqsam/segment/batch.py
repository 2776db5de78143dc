"""Several images in one call, each with prompts of its own: encoded together, decoded one by one.

Images are encoded ``batch`` at a time. Prompts stay with their image: what the decoder computes for an image
is computed once, whatever the number of its prompts, and none are padded to the number of another image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from saqsam.errors import PromptError, UsageError
from saqsam.families.record import Model
from saqsam.images.files import Pixels
from saqsam.images.pixels import Picture, as_pixels
from saqsam.prompts.prompts import CheckedPrompts, checked_prompts
from saqsam.segment.predictor import answer, ask, encoded, low_res_side
from saqsam.segment.result import Segmentation
from saqsam.segment.zoom import Answering, clipped_to_boxes, segment

_BATCH_ON_ACCELERATOR = 4
"""At 1024 pixels the attention maps of one image take up to a gigabyte; few images fill an accelerator."""


def images_at_once(model: Model) -> int:
    """How many images to encode together: one on a CPU, where more only take more memory."""
    return 1 if model.device.type == "cpu" else _BATCH_ON_ACCELERATOR


def segment_images(
    model: Model,
    images: Sequence[Picture],
    given: dict[str, Any],
    how: Answering,
    *,
    batch: int | None = None,
) -> list[Segmentation]:
    """Segment what is asked for on each of several images.

    Args:
        model: float or quantized.
        images: N pictures.
        given: ``boxes``, ``points``, ``labels`` and ``masks``, each None or with one entry for each image.
        how: how prompts are answered.
        batch: images encoded together.

    Results and errors as of :meth:`saqsam.sam.Sam.segment_many`.
    """
    _check(images, given, batch)
    step = images_at_once(model) if batch is None else batch
    found: list[Segmentation] = []
    for start in range(0, len(images), step):
        asked = [
            _asked(model, index, images[index], {name: _entry(rows, index) for name, rows in given.items()})
            for index in range(start, min(start + step, len(images)))
        ]
        answers = _answers(model, asked, how)
        found += [replace(one, notes=each.notes) for one, each in zip(answers, asked, strict=True)]
    return found


@dataclass(frozen=True)
class _Asked:
    """One image and its checked prompts."""

    where: str
    pixels: Pixels
    notes: tuple[str, ...]
    prompts: CheckedPrompts


def _answers(model: Model, asked: Sequence[_Asked], how: Answering) -> list[Segmentation]:
    if how.zoom:
        return [segment(model, one.pixels, one.prompts, how, where=one.where) for one in asked]
    questions = [ask(model, one.pixels, one.prompts, one.where) for one in asked]
    found = [
        answer(model, embeddings, question, how.multimask_output, None, all_masks=how.all_masks)
        for embeddings, question in zip(encoded(model, questions), questions, strict=True)
    ]
    return [clipped_to_boxes(one) for one in found] if how.clip_to_box else found


def _check(images: Any, given: dict[str, Any], batch: int | None) -> None:
    if not _is_list(images) or isinstance(images, Tensor | np.ndarray):
        raise UsageError(
            f"segment_many: images must be a list of files or arrays, got {type(images).__name__}; "
            "'segment' takes a single image"
        )
    if not images:
        raise UsageError("segment_many: the list of images is empty; give at least one")
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise UsageError(f"segment_many: batch {batch!r}: give the images to encode at a time, 1 or more")
    for name, entries in given.items():
        if entries is not None and not _is_list(entries):
            raise UsageError(
                f"segment_many: {name} must be a list with one entry for each image, "
                f"got {type(entries).__name__}"
            )
        if entries is not None and len(entries) != len(images):
            raise UsageError(
                f"segment_many: {len(images)} images, but {name} has {len(entries)} entries; "
                "give one for each image, None where it has none"
            )


def _is_list(values: Any) -> bool:
    if isinstance(values, Tensor | np.ndarray):
        return values.ndim > 0
    return isinstance(values, Sequence) and not isinstance(values, str | bytes)


def _entry(entries: Any, index: int) -> Any:
    return None if entries is None else entries[index]


def _asked(model: Model, index: int, image: Any, given: dict[str, Any]) -> _Asked:
    """Open one image and check what is asked of it; errors name the image."""
    where = f"image {index} ({image})" if isinstance(image, str | Path) else f"image {index}"
    loaded = as_pixels(image, where)
    height, width = loaded.pixels.shape[:2]
    try:
        prompts = checked_prompts(width, height, **given, mask_side=low_res_side(model))
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from error
    return _Asked(where, loaded.pixels, loaded.notes, prompts)
