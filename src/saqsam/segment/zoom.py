"""Box prompts answered on crops around them, and answers clipped to their boxes.

A model sees a picture through a fixed number of patches, so an object that is small in the picture is a patch
or two. ``zoom`` gives it more: the picture is cut around the box, and the crop is encoded and asked as a
picture of its own. That takes an encoder pass for each crop; boxes that share a crop share its pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.framing import frame_for, preprocess
from saqsam.families.record import Model
from saqsam.images.crops import Mask, Window, around, cut, paste, square_around
from saqsam.images.frame import Frame, checked_pixels
from saqsam.prompts.prompts import CheckedPrompts, Prompts
from saqsam.segment.predictor import (
    Question,
    answer,
    checked_once,
    embed,
    predict,
    predict_parts,
    prompts_in_a_part,
)
from saqsam.segment.result import Segmentation

MADE_FOR_CROPS = frozenset({"small"})
"""Shipped models that were trained to answer boxes on crops around them. They do so by default, and keep what
lies in the box."""
ZOOM_RECORD, CLIP_RECORD = "zoom", "clip_to_box"
"""Names under which a packed file's records keep ``Sam.zoom`` and ``Sam.clip_to_box``."""
CROP_FACTOR = 1.5
"""Side of the square crop in longer sides of its box. For ``small`` 1.3, 1.5 and 1.7 are equal on photographs
held out from training; on the 50 of its card 1.3 is .013 worse, so those were seen when this was chosen."""
SHARED_FACTOR = 2.0
"""A box is answered on a crop that is there if that holds it and is at most this many boxes long."""
SHARED_MARGIN = 1.1
"""What must be there of such a crop around the box, in its sides."""


@dataclass(frozen=True)
class Answering:
    """How prompts are answered.

    Attributes:
        multimask_output: the best of three masks by predicted IoU rather than the single one.
        all_masks: all three, as rows of their own.
        zoom: answer boxes on crops around them. Prompts without a box, and mask prompts, which lie in the
            frame of the whole picture, are answered on the whole picture.
        clip_to_box: of an answer to a box, keep only pixels that the box touches.
    """

    multimask_output: bool = False
    all_masks: bool = False
    zoom: bool = False
    clip_to_box: bool = False


@dataclass(frozen=True)
class Crop:
    """A part of the picture and the prompts that are answered on it.

    Attributes:
        window: in whole pixels of the picture.
        rows: which prompts, rising.
    """

    window: Window
    rows: tuple[int, ...]


def segment(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    prompts: Prompts | CheckedPrompts,
    how: Answering,
    *,
    where: str = "prompts",
) -> Segmentation:
    """As :func:`saqsam.segment.predictor.predict`, answered as ``how`` says."""
    if _zooms(prompts, how):
        found = next(_zoomed(model, pixels, prompts, how, None, where))
    else:
        found = predict(
            model,
            pixels,
            prompts,
            multimask_output=how.multimask_output,
            all_masks=how.all_masks,
            where=where,
        )
    return clipped_to_boxes(found) if how.clip_to_box else found


def segment_parts(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    prompts: Prompts | CheckedPrompts,
    how: Answering,
    *,
    chunk: int = 32,
    where: str = "prompts",
) -> Iterator[Segmentation]:
    """As :func:`saqsam.segment.predictor.predict_parts`, answered as ``how`` says.

    Which boxes share a crop is decided for all prompts together, so answers do not depend on ``chunk``.
    """
    if _zooms(prompts, how):
        fitting = prompts_in_a_part(frame_for(model, *checked_pixels(pixels).shape[:2]), chunk)
        parts = _zoomed(model, pixels, prompts, how, fitting, where)
    else:
        parts = predict_parts(
            model,
            pixels,
            prompts,
            multimask_output=how.multimask_output,
            all_masks=how.all_masks,
            chunk=chunk,
            where=where,
        )
    yield from map(clipped_to_boxes, parts) if how.clip_to_box else parts


def clipped_to_boxes(found: Segmentation) -> Segmentation:
    """The same answers with masks cut to the pixels their boxes touch; those without boxes as they are."""
    if found.prompts.boxes is None or not len(found):
        return found
    masks = np.empty_like(found.masks)
    for index, box in enumerate(found.prompts.boxes.tolist()):
        masks[index] = clipped_to_box(found.masks[index], box)
    return replace(found, masks=masks)


def clipped_to_box(masks: Mask, box: Sequence[float]) -> Mask:
    """Masks ``(..., H, W)`` of a picture cut to the pixels that a box, XYXY in its pixels, touches."""
    x0, y0, x1, y1 = around(box, 1.0, masks.shape[-2:])
    kept = np.zeros_like(masks)
    kept[..., y0:y1, x0:x1] = masks[..., y0:y1, x0:x1]
    return kept


def crops_for(prompts: Prompts, height: int, width: int) -> list[Crop]:
    """Crops on which the boxes of one picture are answered, largest first.

    Large boxes come first. A box takes the smallest crop that is there already and fits it, else one of its
    own; see ``SHARED_FACTOR``. Clicks that belong to a box lie in its crop.

    Args:
        prompts: with boxes, checked against the picture.
        height: of the picture in pixels.
        width: of the picture in pixels.
    """
    size = height, width
    boxes = _with_clicks(prompts)
    own = np.array([square_around(box, CROP_FACTOR, size) for box in boxes]).reshape(-1, 4)
    least = np.array([around(box, SHARED_MARGIN, size) for box in boxes]).reshape(-1, 4)
    longest = _longest(boxes)
    rows_of: dict[Window, list[int]] = {}
    for row in np.argsort(-_longest(own), kind="stable").tolist():
        windows = np.array(list(rows_of)).reshape(-1, 4)
        holds = (windows[:, :2] <= least[row, :2]).all(1) & (windows[:, 2:] >= least[row, 2:]).all(1)
        fits = np.flatnonzero(holds & (_longest(windows) <= SHARED_FACTOR * longest[row]))
        if len(fits):
            window = tuple(windows[fits[np.argmin(_longest(windows[fits]))]].tolist())
        else:
            window = tuple(own[row].tolist())
        rows_of.setdefault(window, []).append(row)
    return [Crop(window, tuple(sorted(rows))) for window, rows in rows_of.items()]


def shifted(prompts: Prompts, rows: Sequence[int], window: Window) -> Prompts:
    """Some prompts in pixels of a window."""
    some = prompts[torch.tensor(rows)]
    corner = torch.tensor(window[:2], dtype=torch.float32)
    return Prompts(
        boxes=None if some.boxes is None else some.boxes - corner.repeat(2),
        points=None if some.points is None else some.points - corner,
        labels=some.labels,
    )


def _with_clicks(prompts: Prompts) -> npt.NDArray[np.float64]:
    """Boxes ``(P, 4)``, grown to hold the clicks that belong to them."""
    boxes = np.zeros((0, 4)) if prompts.boxes is None else prompts.boxes.double().numpy().copy()
    for box, clicks in zip(boxes, prompts.clicks() or (), strict=False):
        for x, y in clicks:
            box[:2], box[2:] = np.minimum(box[:2], (x, y)), np.maximum(box[2:], (x, y))
    return boxes


def _longest(boxes: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    sides: npt.NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)  # type: ignore[operator]
    longest: npt.NDArray[np.float64] = sides.max(axis=1, initial=0.0)
    return longest


def own_answering(name: str | Path, records: Mapping[str, Any]) -> Answering:
    """How a model answers boxes unless it is told otherwise.

    Args:
        name: what was loaded; some embedded models are made for crops.
        records: of a quantized model, which say it of the float model it was made from.
    """
    made = str(name) in MADE_FOR_CROPS
    return Answering(
        zoom=made or records.get(ZOOM_RECORD) is True,
        clip_to_box=made or records.get(CLIP_RECORD) is True,
    )


def answering_records(how: Answering) -> dict[str, bool]:
    """What a packed file's records keep for :func:`own_answering`; nothing where it is SAM's own way."""
    found = {ZOOM_RECORD: how.zoom, CLIP_RECORD: how.clip_to_box}
    return {name: True for name, said in found.items() if said}


def _zooms(prompts: Prompts | CheckedPrompts, how: Answering) -> bool:
    given = prompts.prompts if isinstance(prompts, CheckedPrompts) else prompts
    return how.zoom and given.boxes is not None and len(given) > 0 and given.masks is None


@torch.no_grad()
def _zoomed(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    prompts: Prompts | CheckedPrompts,
    how: Answering,
    at_once: int | None,
    where: str,
) -> Iterator[Segmentation]:
    """Answers to consecutive prompts, ``at_once`` at a time or all together, each from its crop."""
    height, width = checked_pixels(pixels).shape[:2]
    checked, clipped = checked_once(model, height, width, prompts, where)
    at_once = len(checked) if at_once is None else at_once
    crops = crops_for(checked, height, width)
    kept: dict[int, Embedding] = {}
    for start in range(0, len(checked), at_once):
        answers: list[tuple[list[int], Segmentation]] = []
        passes = 0
        for index, crop in enumerate(crops):
            rows = [row for row in crop.rows if start <= row < start + at_once]
            if not rows:
                continue
            pixel_values, frame = preprocess(model, cut(pixels, crop.window))
            if index not in kept:
                kept[index] = embed(model, pixel_values)
                passes += 1
            question = Question(pixel_values, frame, shifted(checked, rows, crop.window), 0)
            found = answer(model, kept[index], question, how.multimask_output, None, all_masks=how.all_masks)
            answers.append((rows, _uncropped(found, crop.window, frame, frame_for(model, height, width))))
            if crop.rows[-1] < start + at_once:
                del kept[index]
        part = _assembled(answers, checked[start : start + at_once], start)
        yield replace(part, encoder_passes=passes, clipped_boxes=0 if start else clipped)


def _uncropped(found: Segmentation, window: Window, frame: Frame, whole: Frame) -> Segmentation:
    """Answers on a window as answers on the picture."""
    masks = np.zeros((len(found), *whole.original), dtype=bool)
    for index, mask in enumerate(found.masks):
        masks[index] = paste(mask, window, whole.original)
    return replace(found, masks=masks, low_res_logits=_moved(found.low_res_logits, window, frame, whole))


def _moved(logits: Tensor, window: Window, frame: Frame, whole: Frame) -> Tensor:
    """Low-resolution logits ``(K, 1, s, s)`` of a window in the frame of the picture.

    Outside of the window each mask has its own lowest logit.
    """
    side = logits.shape[-1]
    lowest = logits.flatten(1).amin(1)[:, None, None, None]
    axes = []
    for axis, low in ((1, window[0]), (0, window[1])):
        centres = (torch.arange(side, dtype=torch.float64) + 0.5) * (whole.size / side)
        on_picture = centres * whole.original[axis] / whole.resized[axis]
        on_input = (on_picture - low) * frame.resized[axis] / frame.original[axis]
        inside = (on_picture >= low) & (on_picture <= low + frame.original[axis])
        axes.append((2 * on_input / frame.size - 1, inside))
    (x, x_inside), (y, y_inside) = axes
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(logits.dtype)
    sampled = F.grid_sample(
        logits, grid.expand(len(logits), -1, -1, -1), padding_mode="border", align_corners=False
    )
    return torch.where(y_inside[:, None] & x_inside, sampled, lowest)


def _assembled(answers: Sequence[tuple[list[int], Segmentation]], asked: Prompts, start: int) -> Segmentation:
    """Answers of several crops in the order of their prompts, of which the first is number ``start``."""
    times = sum(len(found) for _, found in answers) // len(asked)
    order = np.concatenate(
        [(np.array(rows)[:, None] - start) * times + np.arange(times) for rows, _ in answers]
    ).ravel()
    back = np.argsort(order)
    objects = [found.object_scores for _, found in answers if found.object_scores is not None]
    return Segmentation(
        masks=np.concatenate([found.masks for _, found in answers])[back],
        iou_scores=np.concatenate([found.iou_scores for _, found in answers])[back],
        low_res_logits=torch.cat([found.low_res_logits for _, found in answers])[torch.from_numpy(back)],
        nan_count=sum(found.nan_count for _, found in answers),
        prompts=asked.repeated(times),
        object_scores=np.concatenate(objects)[back] if objects else None,
    )
