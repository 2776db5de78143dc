"""One image through the encoder, and its prompts through the mask decoder, in pieces that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers, Model, Prepared
from saqsam.families.registry import decoder_of, encoder_of, sizes_of
from saqsam.images.frame import Frame
from saqsam.prompts.clicks import by_count
from saqsam.prompts.prompts import Prompts


def low_res_side(model: Model) -> int:
    """Side of the model's low-resolution masks, and of its mask prompts: four times its embedding grid."""
    return sizes_of(model).low_res_side


@torch.no_grad()
def embed(model: Model, pixel_values: Tensor) -> Embedding:
    """Image embeddings of preprocessed images.

    Padding to whole windows costs nothing where nothing watches, see :mod:`saqsam.families.sam_encoder`.

    Args:
        model: float or quantized.
        pixel_values: (B, 3, S, S) from :func:`preprocess`.

    Returns:
        Of B images, on the model's device.
    """
    return encoder_of(model).encode(pixel_values.to(model.device, model.dtype))


@torch.no_grad()
def decode(
    model: Model,
    embeddings: Embedding,
    prompts: Prompts,
    frame: Frame,
    *,
    multimask_output: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Low-resolution masks for every prompt of one image; a single mask is always the model's first.

    Arguments as of :func:`decoded`.

    Returns:
        (P, M, 4g, 4g) mask logits and (P, M) predicted IoU, on the model's device.
    """
    found = decoded(model, embeddings, prompts, frame, multimask_output=multimask_output, chunk=chunk)
    return found.masks, found.scores


@torch.no_grad()
def decoded(
    model: Model,
    embeddings: Embedding,
    prompts: Prompts,
    frame: Frame,
    *,
    multimask_output: bool = False,
    may_switch: bool = False,
    chunk: int | None = None,
) -> Answers:
    """What the mask decoder says of every prompt of one image.

    Prompts are independent, so working through them ``chunk`` at a time changes memory and nothing else.
    What all prompts have in common is computed once where the family can.

    Args:
        model: float or quantized.
        embeddings: of this image, from :func:`embed`.
        prompts: P checked prompts in displayed-image pixels; P may be 0.
        frame: from :func:`preprocess`.
        multimask_output: M = 3 masks of an ambiguous prompt rather than the single M = 1.
        may_switch: whether the single mask may be another than the first, where the model's own settings say
            so (as published SAM 2 models do for masks that are not stable).
        chunk: prompts decoded together; None asks the model, or chooses by the size of the embedding.

    Returns:
        Answers without their dimension B, on the model's device.
    """
    if len(prompts) == 0:
        return _nothing(model, embeddings, multimask_output)
    if chunk is None:
        chunk = getattr(model, "prompts_at_once", None) or embeddings.prompts_at_once()
    chunk = max(1, chunk)
    decoder = decoder_of(model)
    how = _How(multimask_output, may_switch and not multimask_output and decoder.switches)
    prepared = decoder.prepared(embeddings, with_masks=prompts.masks is not None)
    order: list[Tensor] = []
    parts: list[Answers] = []
    for rows, alike in by_count(prompts):
        order += [] if rows is None else [rows]
        for group in (alike[start : start + chunk] for start in range(0, len(alike), chunk)):
            some = group.to(embeddings.device)
            if prepared is None:
                parts.append(_decode_plain(model, embeddings, some, frame, how))
            else:
                parts.append(_decode_shared(model, prepared, some, frame, how))
    found = parts[0]
    if len(parts) > 1:
        found = Answers.of([torch.cat(same) for same in zip(*(part.tensors for part in parts), strict=True)])
    if order:
        back = torch.cat(order).argsort().to(embeddings.device)
        found = Answers.of([x[back] for x in found.tensors])
    return found


@dataclass(frozen=True)
class _How:
    """See :func:`decoded`."""

    multimask_output: bool
    may_switch: bool


def _nothing(model: Model, embeddings: Embedding, multimask_output: bool) -> Answers:
    sizes, like = sizes_of(model), embeddings.main
    outputs, side = sizes.masks if multimask_output else 1, sizes.low_res_side
    objects = like.new_zeros(0) if sizes.object_scores else None
    return Answers(like.new_zeros((0, outputs, side, side)), like.new_zeros((0, outputs)), objects)


def _decode_shared(model: Model, decoder: Prepared, prompts: Prompts, frame: Frame, how: _How) -> Answers:
    sparse, dense = decoder_of(model).embed_prompts(
        input_boxes=None if prompts.boxes is None else frame.scale_boxes(prompts.boxes)[None],
        input_points=None if prompts.points is None else frame.scale_points(prompts.points)[None],
        input_labels=None if prompts.labels is None else prompts.labels[None],
        input_masks=None if prompts.masks is None else prompts.masks.to(model.dtype),
    )
    tokens, image = decoder.attend(
        None if sparse is None else sparse.flatten(0, 1), None if prompts.masks is None else dense
    )
    return decoder.answer(tokens, image, multimask_output=how.multimask_output, may_switch=how.may_switch)


def _decode_plain(model: Model, embeddings: Embedding, prompts: Prompts, frame: Frame, how: _How) -> Answers:
    boxes = None if prompts.boxes is None else frame.scale_boxes(prompts.boxes)
    points = None if prompts.points is None else frame.scale_points(prompts.points)
    # The model takes a batch of images with several prompts each. One image with P prompts is cheapest,
    # but a mask prompt belongs to an image, so with masks each prompt becomes an image of its own.
    prompt_dim = 0 if prompts.masks is None else 1
    count = 1 if prompts.masks is None else len(prompts)
    found = decoder_of(model).answer(
        embeddings.expand(count),
        input_boxes=None if boxes is None else boxes.unsqueeze(prompt_dim),
        input_points=None if points is None else points.unsqueeze(prompt_dim),
        input_labels=None if prompts.labels is None else prompts.labels.unsqueeze(prompt_dim),
        input_masks=None if prompts.masks is None else prompts.masks.to(embeddings.dtype),
        multimask_output=how.multimask_output,
        may_switch=how.may_switch,
    )
    return Answers.of([x.flatten(0, 1) for x in found.tensors])
