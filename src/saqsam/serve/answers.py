"""Prompts in JSON to masks: what ``/api/decode`` computes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.datasets.masks import encode_mask
from saqsam.errors import PromptError, UsageError
from saqsam.families.record import Answers
from saqsam.prompts.prompts import Prompts, checked_prompts
from saqsam.sam import Sam
from saqsam.segment.decode import decoded
from saqsam.segment.predictor import upscale_masks
from saqsam.serve.encodings import Encoding

RLE, LOGITS = "rle", "logits"
MOST_PROMPTS = 256
_SINGLE = 0
_WORDS = {"single": (0,), "all": (1, 2, 3)}


@dataclass(frozen=True)
class Answer:
    """Masks of P prompts, K of each.

    Attributes:
        logits: ``(P, K, 4g, 4g)`` float32 on the CPU.
        scores: ``(P, K)`` predicted IoU.
        slots: which masks these are: 0 is the single one, 1 to 3 those to an ambiguous prompt.
        seconds: that decoding took.
        objects: ``(P,)`` how likely there is an object, 0 to 1, of models that say it.
    """

    logits: Tensor
    scores: Tensor
    slots: tuple[int, ...]
    seconds: float
    objects: Tensor | None = None


@dataclass(frozen=True)
class Question:
    """A request to decode, as it was sent.

    Attributes:
        image: as ``/api/images`` named it.
        model: number of the model.
        boxes, points, labels: as of ``Sam.segment``.
        slots: masks asked for.
        format: ``rle`` or ``logits``.
    """

    image: str
    model: int
    boxes: Any
    points: Any
    labels: Any
    slots: tuple[int, ...]
    format: str


def read_question(body: bytes) -> Question:
    """What a request asks.

    Raises:
        UsageError: it is no JSON object, or a key in it is unknown or has no meaning.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise UsageError(f"the body is not JSON ({error}); give an object") from error
    known = ("image", "model", "boxes", "points", "labels", "masks", "format")
    if not isinstance(asked, dict) or set(asked) - set(known):
        raise UsageError(f"expected an object with keys {', '.join(known)}")
    if not isinstance(asked.get("image"), str):
        raise UsageError("image: expected the text that /api/images answered")
    model = asked.get("model", 0)
    form = asked.get("format", RLE)
    if not isinstance(model, int) or form not in (RLE, LOGITS):
        raise UsageError("expected model as a number from 0, and format rle or logits")
    slots = _slots(asked.get("masks", "single"))
    return Question(
        asked["image"], model, asked.get("boxes"), asked.get("points"), asked.get("labels"), slots, form
    )


def _slots(asked: Any) -> tuple[int, ...]:
    slots = _WORDS.get(asked) if isinstance(asked, str) else asked
    numbers = isinstance(slots, list | tuple) and all(type(one) is int and 0 <= one <= 3 for one in slots)
    if not numbers or not slots or len(set(slots)) != len(slots):
        raise UsageError("masks: expected single, all, or a list of different numbers from 0 (single) to 3")
    return tuple(slots)


class Decoder:
    """Answers questions, one at a time for each model; an image may be encoded meanwhile."""

    def __init__(self, models: Sequence[Sam]) -> None:
        self._models = models
        self._locks = [threading.Lock() for _ in models]

    def answer(self, encoding: Encoding, question: Question) -> Answer:
        """Masks for a question.

        Raises:
            PromptError: a prompt has no meaning on the image, or there are too many.
        """
        height, width = encoding.frame.original
        prompts = checked_prompts(
            width, height, boxes=question.boxes, points=question.points, labels=question.labels
        ).prompts
        if not 1 <= len(prompts) <= MOST_PROMPTS:
            raise PromptError(f"prompts: expected 1 to {MOST_PROMPTS} of boxes or points, got {len(prompts)}")
        return self.decode(encoding, prompts, question.slots)

    def decode(self, encoding: Encoding, prompts: Prompts, slots: tuple[int, ...]) -> Answer:
        """Masks for prompts that were checked; the single one is that of ``Sam.segment``."""
        embedding = encoding.embedding
        assert embedding is not None  # noqa: S101 - the caller has waited for it
        with self._locks[encoding.model]:
            model, began = self._models[encoding.model].model, time.perf_counter()
            parts: list[Answers] = []
            order: list[int] = []
            for multimask, numbers in ((False, [_SINGLE]), (True, [1, 2, 3])):
                if set(numbers) & set(slots):
                    found = decoded(
                        model,
                        embedding,
                        prompts,
                        encoding.frame,
                        multimask_output=multimask,
                        may_switch=True,
                    )
                    parts.append(found)
                    order += numbers
            logits = torch.cat([part.masks for part in parts], dim=1).float().cpu()
            scores = torch.cat([part.scores for part in parts], dim=1).float().cpu()
            objects = parts[0].objects
            objects = None if objects is None else torch.sigmoid(objects.float()).cpu()
            rows = [order.index(slot) for slot in slots]
            seconds = time.perf_counter() - began
            return Answer(logits[:, rows], scores[:, rows], slots, seconds, objects)


def as_json(answer: Answer, encoding: Encoding) -> dict[str, Any]:
    """Masks at the size of the image as COCO's run lengths, with their predicted IoU, and where the model
    says it with the likelihood of there being an object."""
    masks = upscale_masks(answer.logits, encoding.frame)
    sure: list[dict[str, float]] = [{} for _ in masks]
    if answer.objects is not None:
        sure = [{"object_score": one} for one in answer.objects.tolist()]
    return {
        "image": encoding.image,
        "seconds": answer.seconds,
        "prompts": [
            [
                {
                    "mask": slot,
                    "iou_score": float(answer.scores[row, column]),
                    **sure[row],
                    "area": int(masks[row, column].sum()),
                    "segmentation": _readable(encode_mask(masks[row, column].numpy())),
                }
                for column, slot in enumerate(answer.slots)
            ]
            for row in range(len(masks))
        ],
    }


def _readable(code: Any) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
