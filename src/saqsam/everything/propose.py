"""Masks for the clicks of one crop, those with a low predicted IoU left out before they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, Prepared
from saqsam.families.registry import decoder_of
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode


@dataclass(frozen=True)
class Proposals:
    """Masks of a few clicks.

    Attributes:
        clicks: ``(K,)`` int64, which click each mask belongs to.
        logits: ``(K, 4g, 4g)``.
        scores: ``(K,)`` predicted IoU.
        nan_count: predicted IoUs of these clicks that were not finite.
    """

    clicks: Tensor
    logits: Tensor
    scores: Tensor
    nan_count: int


@torch.no_grad()
def propose(
    model: Model, embeddings: Embedding, points: Tensor, frame: Frame, *, above: float, at_once: int
) -> Iterator[Proposals]:
    """The masks of each click whose predicted IoU is above a threshold, a few clicks at a time.

    Args:
        model: float or quantized.
        embeddings: of the crop.
        points: ``(P, 2)`` x, y in pixels of the crop; each is one click on an object.
        frame: of the crop.
        above: the threshold.
        at_once: most clicks decoded together.
    """
    step = min(at_once, embeddings.prompts_at_once())
    decoder = decoder_of(model).prepared(embeddings)
    for start in range(0, len(points), step):
        clicks = torch.arange(start, min(start + step, len(points)), device=embeddings.device)
        some = points[start : start + step]
        if decoder is None:
            yield _from_plain_decoder(model, embeddings, some, frame, above, clicks)
        else:
            yield _from_shared_decoder(model, decoder, some, frame, above, clicks)


def _from_shared_decoder(
    model: Model, decoder: Prepared, points: Tensor, frame: Frame, above: float, clicks: Tensor
) -> Proposals:
    scaled = frame.scale_points(points)[None, :, None].to(clicks.device)
    labels = torch.ones(scaled.shape[:3], dtype=torch.int64, device=scaled.device)
    sparse, _ = decoder_of(model).embed_prompts(input_points=scaled, input_labels=labels)
    tokens, image = decoder.attend(None if sparse is None else sparse[0], None)
    scores = decoder.scores(tokens, multimask_output=True).float()
    good = scores > above
    rows = good.any(1)
    logits = decoder.masks(tokens[rows], image[rows], multimask_output=True)[good[rows]]
    return _proposals(clicks, logits, scores, good)


def _from_plain_decoder(
    model: Model, embeddings: Embedding, points: Tensor, frame: Frame, above: float, clicks: Tensor
) -> Proposals:
    labels = torch.ones((len(points), 1), dtype=torch.int64)
    prompts = Prompts(points=points[:, None], labels=labels)
    logits, scores = decode(model, embeddings, prompts, frame, multimask_output=True)
    good = scores.float() > above
    return _proposals(clicks, logits[good], scores.float(), good)


def _proposals(clicks: Tensor, logits: Tensor, scores: Tensor, good: Tensor) -> Proposals:
    broken = int((~scores.isfinite()).sum())
    return Proposals(clicks[good.nonzero()[:, 0]], logits.float(), scores[good], broken)


def enlarged(logits: Tensor, frame: Frame) -> Tensor:
    """Logits ``(K, 4g, 4g)`` at the size of their crop, ``(K, H, W)``."""
    return frame.enlarge(logits[:, None])[:, 0]
