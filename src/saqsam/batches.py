"""Several images in one call, each with prompts of its own: encoded together, decoded one by one.

Images are encoded ``batch`` at a time. Prompts stay with their image: what the decoder computes for an image
is computed once, whatever the number of its prompts, and none are padded to the number of another image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import SamModel

from saqsam.errors import ImageError, PromptError, UsageError
from saqsam.images import open_image
from saqsam.predictor import Question, answer, ask, checked_pixels, encoded
from saqsam.prompts.prompts import checked_prompts
from saqsam.segmentation import Segmentation

_BATCH_ON_ACCELERATOR = 4
"""At 1024 pixels the attention maps of one image take up to a gigabyte; few images fill an accelerator."""


def images_at_once(model: SamModel) -> int:
    """How many images to encode together: one on a CPU, where more only take more memory."""
    return 1 if model.device.type == "cpu" else _BATCH_ON_ACCELERATOR


def segment_images(
    model: SamModel,
    images: Sequence[str | Path | npt.NDArray[np.uint8]],
    boxes: Any = None,
    points: Any = None,
    labels: Any = None,
    *,
    multimask_output: bool = False,
    batch: int | None = None,
) -> list[Segmentation]:
    """Segment what is asked for on each of several images.

    Arguments, results and errors as of :meth:`saqsam.sam.Sam.segment_many`.
    """
    given = {"boxes": boxes, "points": points, "labels": labels}
    _check(images, given, batch)
    step = images_at_once(model) if batch is None else batch
    found: list[Segmentation] = []
    for start in range(0, len(images), step):
        questions = [
            _question(
                model, index, images[index], {name: _entry(rows, index) for name, rows in given.items()}
            )
            for index in range(start, min(start + step, len(images)))
        ]
        for embeddings, question in zip(encoded(model, questions), questions, strict=True):
            found.append(answer(model, embeddings, question, multimask_output, None))
    return found


def _check(images: Any, given: dict[str, Any], batch: int | None) -> None:
    if not _is_list(images) or isinstance(images, Tensor | np.ndarray):
        raise UsageError(
            f"segment_many: images must be a list of files or arrays, got {type(images).__name__}; "
            "'segment' takes a single image"
        )
    if not images:
        raise UsageError("segment_many: the list of images is empty; give at least one")
    if batch is not None and batch < 1:
        raise UsageError(f"segment_many: batch {batch}: encode at least 1 image at a time")
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


def _question(model: SamModel, index: int, image: Any, given: dict[str, Any]) -> Question:
    """Open one image and check what is asked of it; errors name the image."""
    where = f"image {index}"
    if isinstance(image, str | Path):
        where = f"{where} ({image})"
        pixels = open_image(image).pixels
    else:
        try:
            pixels = checked_pixels(image)
        except ImageError as error:
            raise ImageError(where, error.reason) from error
    height, width = pixels.shape[:2]
    try:
        prompts, clipped = checked_prompts(width, height, **given)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from error
    return replace(ask(model, pixels, prompts, where), clipped=clipped)
