"""Prompts in JSON to masks: what ``/api/decode`` computes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saqsam.datasets.masks import encode_mask
from saqsam.errors import PromptError, SaqsamError, UsageError
from saqsam.families.record import Answers
from saqsam.images.crops import Mask, Window, paste
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts, checked_prompts
from saqsam.segment.decode import decoded
from saqsam.segment.predictor import upscale_masks
from saqsam.segment.zoom import clipped_to_box, crops_for, shifted
from saqsam.serve.encodings import FAILED, Encoding, Encodings

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
        frame: where the image lies in the model's input.
        objects: ``(P,)`` how likely there is an object, 0 to 1, of models that say it.
        crops: of each prompt the window it was answered on, and where that lies in the model's input; none
            where all were answered on the whole image.
        boxes: ``(P, 4)`` that the masks are cut to, of models that do so.
        encode_seconds: that encoding took of the crops that were not there yet.
    """

    logits: Tensor
    scores: Tensor
    slots: tuple[int, ...]
    seconds: float
    frame: Frame
    objects: Tensor | None = None
    crops: tuple[tuple[Window, Frame], ...] = ()
    boxes: Tensor | None = None
    encode_seconds: float = 0.0

    def masks(self, columns: slice = slice(None)) -> Mask:
        """``(P, K, H, W)`` at the size of the image, of all K or some."""
        logits = self.logits[:, columns]
        if not self.crops:
            masks: Mask = upscale_masks(logits, self.frame).numpy()
        else:
            masks = np.empty((*logits.shape[:2], *self.frame.original), dtype=bool)
            for row, (window, frame) in enumerate(self.crops):
                for column, mask in enumerate(upscale_masks(logits[row : row + 1], frame)[0].numpy()):
                    masks[row, column] = paste(mask, window, self.frame.original)
        for row, box in enumerate([] if self.boxes is None else self.boxes.tolist()):
            masks[row] = clipped_to_box(masks[row], box)
        return masks


@dataclass(frozen=True)
class Question:
    """A request to decode, as it was sent.

    Attributes:
        image: as ``/api/images`` named it.
        model: number of the model.
        boxes, points, labels: as of ``Sam.segment``.
        slots: masks asked for.
        format: ``rle`` or ``logits``.
        zoom: as of ``Sam.segment``; ``None`` answers boxes as the model does.
    """

    image: str
    model: int
    boxes: Any
    points: Any
    labels: Any
    slots: tuple[int, ...]
    format: str
    zoom: bool | None = None


def read_question(body: bytes) -> Question:
    """What a request asks.

    Raises:
        UsageError: it is no JSON object, or a key in it is unknown or has no meaning.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise UsageError(f"the body is not JSON ({error}); give an object") from error
    known = ("image", "model", "boxes", "points", "labels", "masks", "format", "zoom")
    if not isinstance(asked, dict) or set(asked) - set(known):
        raise UsageError(f"expected an object with keys {', '.join(known)}")
    if not isinstance(asked.get("image"), str):
        raise UsageError("image: expected the text that /api/images answered")
    model = asked.get("model", 0)
    form = asked.get("format", RLE)
    if not isinstance(model, int) or form not in (RLE, LOGITS):
        raise UsageError("expected model as a number from 0, and format rle or logits")
    zoom = asked.get("zoom")
    if zoom is not None and not isinstance(zoom, bool):
        raise UsageError("zoom: expected true or false; leave it out for the model's own way")
    slots = _slots(asked.get("masks", "single"))
    boxes, points, labels = asked.get("boxes"), asked.get("points"), asked.get("labels")
    return Question(asked["image"], model, boxes, points, labels, slots, form, zoom)


def _slots(asked: Any) -> tuple[int, ...]:
    slots = _WORDS.get(asked) if isinstance(asked, str) else asked
    numbers = isinstance(slots, list | tuple) and all(type(one) is int and 0 <= one <= 3 for one in slots)
    if not numbers or not slots or len(set(slots)) != len(slots):
        raise UsageError("masks: expected single, all, or a list of different numbers from 0 (single) to 3")
    return tuple(slots)


class Decoder:
    """Answers questions, one at a time for each model; an image may be encoded meanwhile.

    Args:
        encodings: images, and the crops of them that boxes are answered on.
    """

    def __init__(self, encodings: Encodings) -> None:
        self._encodings = encodings
        self._locks = [threading.Lock() for _ in encodings.models]

    def answer(self, encoding: Encoding, question: Question) -> Answer:
        """Masks for a question.

        Raises:
            PromptError: a prompt has no meaning on the image, or there are too many.
            QueueFull: a crop cannot be encoded, as too many images wait.
        """
        height, width = encoding.frame.original
        prompts = checked_prompts(
            width, height, boxes=question.boxes, points=question.points, labels=question.labels
        ).prompts
        if not 1 <= len(prompts) <= MOST_PROMPTS:
            raise PromptError(f"prompts: expected 1 to {MOST_PROMPTS} of boxes or points, got {len(prompts)}")
        return self.decode(encoding, prompts, question.slots, question.zoom)

    def decode(
        self, encoding: Encoding, prompts: Prompts, slots: tuple[int, ...], zoom: bool | None = None
    ) -> Answer:
        """Masks for prompts that were checked: those of ``Sam.segment``, with ``zoom`` as there."""
        how = self._encodings.models[encoding.model].answering(zoom=zoom)
        if prompts.boxes is None or not how.zoom:
            found = self._on(encoding, prompts, slots)
        else:
            found = self._on_crops(encoding, prompts, slots)
        return replace(found, boxes=prompts.boxes) if how.clip_to_box else found

    def _on_crops(self, encoding: Encoding, prompts: Prompts, slots: tuple[int, ...]) -> Answer:
        rows: list[int] = []
        places: list[tuple[Window, Frame]] = []
        answers: list[Answer] = []
        encode_seconds = 0.0
        for crop in crops_for(prompts, *encoding.frame.original):
            part = self._encodings.crop(encoding, crop.window)
            if not part.done.is_set():
                part.done.wait()
                encode_seconds += part.seconds
            if part.state == FAILED:
                raise SaqsamError(f"a crop around a box: {part.error}; ask again")
            answers.append(self._on(part, shifted(prompts, crop.rows, crop.window), slots))
            rows += crop.rows
            places += [(crop.window, part.frame)] * len(crop.rows)
        back = torch.tensor(rows).argsort()
        objects = [one.objects for one in answers if one.objects is not None]
        return Answer(
            logits=torch.cat([one.logits for one in answers])[back],
            scores=torch.cat([one.scores for one in answers])[back],
            slots=slots,
            seconds=sum(one.seconds for one in answers),
            frame=encoding.frame,
            objects=torch.cat(objects)[back] if objects else None,
            crops=tuple(places[row] for row in back.tolist()),
            encode_seconds=encode_seconds,
        )

    def _on(self, encoding: Encoding, prompts: Prompts, slots: tuple[int, ...]) -> Answer:
        """Masks for prompts on one encoded picture."""
        embedding = encoding.embedding
        assert embedding is not None  # noqa: S101 - the caller has waited for it
        with self._locks[encoding.model]:
            model, began = self._encodings.models[encoding.model].model, time.perf_counter()
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
            return Answer(logits[:, rows], scores[:, rows], slots, seconds, encoding.frame, objects)


def as_json(answer: Answer, encoding: Encoding) -> dict[str, Any]:
    """Masks at the size of the image as COCO's run lengths, with their predicted IoU, and where the model
    says it with the likelihood of there being an object."""
    masks = answer.masks()
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
                    "segmentation": _readable(encode_mask(masks[row, column])),
                }
                for column, slot in enumerate(answer.slots)
            ]
            for row in range(len(masks))
        ],
    }


def _readable(code: Any) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
