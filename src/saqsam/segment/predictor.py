"""From pixels and prompts to masks, by SAM's own protocol.

Kirillov et al., "Segment Anything" (2023), appendix A, and its published predictor: the image is brought
into the model's square input as its family wants it, see :mod:`saqsam.images.frame`; low-resolution mask
logits are enlarged to the original size and cut at 0. Everything is sized by the model's own configuration.

The model is one of ``transformers``, float or quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.families.record import Model
from saqsam.images.frame import Frame, checked_pixels
from saqsam.prompts.prompts import CheckedPrompts, Prompts, checked_prompts
from saqsam.segment.decode import decode, decoded, embed, low_res_side
from saqsam.segment.result import Segmentation

__all__ = [
    "Frame",
    "Question",
    "Segmentation",
    "answer",
    "ask",
    "best_masks",
    "checked_once",
    "checked_pixels",
    "decode",
    "decoded",
    "embed",
    "encoded",
    "low_res_side",
    "predict",
    "predict_parts",
    "preprocess",
    "upscale_masks",
]

MASK_THRESHOLD = 0.0

# Bounds of memory: pixels enlarged together as float32, and pixels of the masks that come in one part.
_ENLARGED_PIXELS = 1 << 24
_PART_PIXELS = 1 << 28


@torch.no_grad()
def upscale_masks(logits: Tensor, frame: Frame) -> Tensor:
    """Masks in displayed-image pixels from low-resolution logits.

    Args:
        logits: (P, M, h, w) from :func:`decode`.
        frame: from :func:`preprocess`.

    Returns:
        (P, M, H, W) bool on the device of ``logits``; where a logit is NaN the mask is False.
    """
    masks = torch.empty((*logits.shape[:2], *frame.original), dtype=torch.bool, device=logits.device)
    for rows in _slices(len(logits), _ENLARGED_PIXELS // _pixels_each(frame, logits.shape[1])):
        masks[rows] = frame.enlarge(logits[rows].float()) > MASK_THRESHOLD
    return masks


def _pixels_each(frame: Frame, masks: int = 1) -> int:
    """Pixels that the ``masks`` masks of one prompt take while they are enlarged."""
    return masks * max(frame.size**2, frame.original[0] * frame.original[1])


def _slices(count: int, length: int) -> Iterator[slice]:
    """Consecutive slices that cover ``count`` rows, each of ``length`` rows, or of one at the least."""
    step = max(1, length)
    return (slice(start, start + step) for start in range(0, count, step))


def predict(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    prompts: Prompts | CheckedPrompts,
    *,
    multimask_output: bool = False,
    all_masks: bool = False,
    chunk: int | None = None,
    where: str = "prompts",
) -> Segmentation:
    """Segment one image from pixels to full-size masks.

    The masks take P x H x W bytes; :func:`predict_parts` gives them a few at a time.

    Args:
        model: float or quantized.
        pixels: (H, W, 3) uint8 RGB.
        prompts: in displayed-image pixels; checked here unless they are already, and boxes that reach past
            the image clipped.
        multimask_output: let the model propose three masks a prompt and keep the one whose predicted IoU
            is highest, rather than its single mask.
        all_masks: give all three, as rows of their own.
        chunk: prompts decoded together; None chooses by the size of the embedding.
        where: what to call the prompts in an error message.

    Raises:
        PromptError: a prompt has no meaning on this image.
        ImageError: the pixels are not (H, W, 3) uint8.
    """
    question = ask(model, pixels, prompts, where)
    return answer(
        model, encoded(model, [question])[0], question, multimask_output, chunk, all_masks=all_masks
    )


def predict_parts(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    prompts: Prompts | CheckedPrompts,
    *,
    multimask_output: bool = False,
    all_masks: bool = False,
    chunk: int = 32,
    where: str = "prompts",
) -> Iterator[Segmentation]:
    """As :func:`predict`, a few prompts at a time: memory does not grow with their number.

    The image is encoded once, when the first part is asked for; ``encoder_passes`` of the others is 0.

    Yields:
        Segmentations of consecutive prompts, at most ``chunk`` and fewer on large images (none without
        prompts). ``clipped_boxes`` of the first counts those of all.

    Raises:
        PromptError, ImageError: as :func:`predict`, before the first part.
    """
    question = ask(model, pixels, prompts, where)
    fitting = prompts_in_a_part(question.frame, chunk)
    embeddings = encoded(model, [question])[0]
    for rows in _slices(len(question.prompts), fitting):
        part = replace(
            question, prompts=question.prompts[rows], clipped=0 if rows.start else question.clipped
        )
        found = answer(model, embeddings, part, multimask_output, None, all_masks=all_masks)
        yield replace(found, encoder_passes=0) if rows.start else found


def prompts_in_a_part(frame: Frame, chunk: int) -> int:
    """At most ``chunk`` prompts, and fewer of a large image: their masks exist at the same time."""
    return max(1, min(chunk, _PART_PIXELS // _pixels_each(frame)))


@dataclass(frozen=True)
class Question:
    """One image as the model takes it, and what is asked about it.

    Attributes:
        pixel_values: (1, 3, S, S) float32 on the CPU.
        frame: where the image lies in them.
        prompts: checked against the image.
        clipped: boxes that reached past the image and were clipped to it.
    """

    pixel_values: Tensor
    frame: Frame
    prompts: Prompts
    clipped: int


def ask(
    model: Model, pixels: npt.NDArray[np.uint8], prompts: Prompts | CheckedPrompts, where: str
) -> Question:
    """Preprocess an image and check its prompts; arguments and errors as of :func:`predict`."""
    pixel_values, frame = preprocess(model, pixels)
    return Question(pixel_values, frame, *checked_once(model, *frame.original, prompts, where))


def checked_once(
    model: Model, height: int, width: int, prompts: Prompts | CheckedPrompts, where: str
) -> CheckedPrompts:
    """Prompts checked against an image of this size; those that are checked already as they are."""
    if isinstance(prompts, CheckedPrompts):
        return prompts
    return checked_prompts(
        width,
        height,
        boxes=prompts.boxes,
        points=prompts.points,
        labels=prompts.labels,
        masks=prompts.masks,
        mask_side=low_res_side(model),
        where=where,
    )


def encoded(model: Model, questions: Sequence[Question]) -> list[Embedding]:
    """Embeddings of images that go through the encoder together, those without prompts left out.

    Returns:
        Of one image for each question; where nothing is asked a (1, 1, 1, 1) that means nothing.
    """
    asked = [one.pixel_values for one in questions if len(one.prompts)]
    found = iter(embed(model, torch.cat(asked)).split() if asked else ())
    return [
        next(found) if len(one.prompts) else Embedding(one.pixel_values.new_zeros((1, 1, 1, 1)))
        for one in questions
    ]


def answer(
    model: Model,
    embeddings: Embedding,
    question: Question,
    multimask_output: bool,
    chunk: int | None,
    *,
    all_masks: bool = False,
) -> Segmentation:
    """Decode the prompts of one image from its embedding, ``chunk`` at a time."""
    found = decoded(
        model,
        embeddings,
        question.prompts,
        question.frame,
        multimask_output=multimask_output or all_masks,
        may_switch=True,
        chunk=chunk,
    )
    logits, scores, prompts = found.masks.float(), found.scores.float(), question.prompts
    objects = None if found.objects is None else torch.sigmoid(found.objects.float()).cpu().numpy()
    if all_masks:
        prompts = prompts.repeated(scores.shape[1])
        objects = None if objects is None else objects.repeat(scores.shape[1])
        logits, scores = logits.flatten(0, 1)[:, None], scores.flatten()[:, None]
    else:
        logits, scores = best_masks(logits, scores)
    finite = logits.isfinite().flatten(1).all(1) & scores.isfinite().all(1)
    return Segmentation(
        masks=upscale_masks(logits, question.frame)[:, 0].cpu().numpy(),
        iou_scores=scores[:, 0].cpu().numpy(),
        low_res_logits=logits.cpu(),
        clipped_boxes=question.clipped,
        nan_count=int((~finite).sum()),
        prompts=prompts,
        encoder_passes=int(len(prompts) > 0),
        object_scores=objects,
    )


def best_masks(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of M masks a prompt, the one with the highest predicted IoU.

    Args:
        logits: (P, M, h, w).
        scores: (P, M).

    Returns:
        (P, 1, h, w) and (P, 1).
    """
    if scores.shape[1] == 1:
        return logits, scores
    best = scores.argmax(dim=1, keepdim=True)
    return torch.take_along_dim(logits, best[..., None, None], dim=1), scores.gather(1, best)
