"""Everything mode from pixels to masks, by segment-anything's published procedure.

Each crop is encoded and clicked on a grid. A mask stays if its predicted IoU and its stability are high and
the crop did not cut it off. Of masks with nearly the same box, the best of its crop stays, and between crops
the one from the smaller. At last, if asked for, small holes and islands go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saqsam.datasets.boxes import nms
from saqsam.datasets.masks import encode_mask
from saqsam.everything.crops import Crop, crops_of, grid_for
from saqsam.everything.filters import extents, stability_scores, touches_crop_edge, without_small_regions
from saqsam.everything.options import EverythingOptions
from saqsam.everything.propose import Proposals, enlarged, propose
from saqsam.everything.result import Everything, EverythingMask
from saqsam.families.framing import preprocess
from saqsam.families.record import Model
from saqsam.images.crops import cut, paste
from saqsam.images.frame import Frame, checked_pixels
from saqsam.segment.predictor import MASK_THRESHOLD, embed

_PIXELS_AT_ONCE = 1 << 24
"""Pixels of masks enlarged together, as float32."""


def segment_everything(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    options: EverythingOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Everything:
    """Masks of everything on one image.

    Args:
        model: float or quantized.
        pixels: ``(H, W, 3)`` uint8 RGB.
        options: thresholds, grids and crops; None takes the published ones.
        progress: called with clicks done and in total.

    Raises:
        ImageError: the pixels are not ``(H, W, 3)`` uint8.
    """
    options = options or EverythingOptions()
    height, width = checked_pixels(pixels).shape[:2]
    crops = crops_of(height, width, options)
    total = sum(len(grid_for(crop.layer, options)) for crop in crops)
    found: list[EverythingMask] = []
    done = nan_count = 0
    for crop in crops:
        masks, broken = _of_crop(model, pixels, crop, options, partial(_advance, progress, done, total))
        found += masks
        nan_count += broken
        done += len(grid_for(crop.layer, options))
    if len(crops) > 1:
        found = _preferring_small_crops(found, options.crop_nms_thresh)
    if options.min_mask_region_area > 0:
        threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
        found = _cleaned(found, options.min_mask_region_area, threshold)
    return Everything(tuple(found), (height, width), nan_count)


def _advance(progress: Callable[[int, int], None], before: int, total: int, clicks: int) -> None:
    progress(before + clicks, total)


def _of_crop(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    crop: Crop,
    options: EverythingOptions,
    progress: Callable[[int], None],
) -> tuple[list[EverythingMask], int]:
    """Masks of one crop by falling predicted IoU, and how many scores were not finite."""
    x0, y0, x1, y1 = crop.box
    pixel_values, frame = preprocess(model, cut(pixels, crop.box))
    embeddings = embed(model, pixel_values)
    points = torch.from_numpy(grid_for(crop.layer, options) * [x1 - x0, y1 - y0])
    found: list[EverythingMask] = []
    nan_count = 0
    for proposals in propose(
        model,
        embeddings,
        points,
        frame,
        above=options.pred_iou_thresh,
        at_once=options.points_per_batch,
    ):
        found += _stable(proposals, points, frame, crop, pixels.shape[:2], options)
        nan_count += proposals.nan_count
        if len(proposals.clicks):
            progress(int(proposals.clicks[-1]) + 1)
    progress(len(points))
    return _suppressed(found, [one.predicted_iou for one in found], options.box_nms_thresh), nan_count


def _stable(
    proposals: Proposals,
    points: Tensor,
    frame: Frame,
    crop: Crop,
    image: tuple[int, ...],
    options: EverythingOptions,
) -> list[EverythingMask]:
    """Those proposals that are stable and whole, as masks of the whole image."""
    found = []
    step = max(1, _PIXELS_AT_ONCE // max(frame.size**2, crop.area))
    for start in range(0, len(proposals.logits), step):
        rows = slice(start, start + step)
        large = enlarged(proposals.logits[rows], frame)
        stability = stability_scores(large, options.stability_score_offset)
        stable = stability >= options.stability_score_thresh
        masks = large[stable] > MASK_THRESHOLD
        x0, y0 = crop.box[:2]
        boxes = (extents(masks) + masks.new_tensor([x0, y0, x0, y0], dtype=torch.int64)).cpu().numpy()
        whole = ~touches_crop_edge(boxes, crop.box, (image[0], image[1]))
        whole &= masks.flatten(1).any(1).cpu().numpy()
        clicks = points[proposals.clicks[rows][stable].cpu()].numpy() + np.array([x0, y0])
        columns = zip(
            masks.cpu().numpy(),
            boxes.tolist(),
            clicks.tolist(),
            proposals.scores[rows][stable].tolist(),
            stability[stable].tolist(),
            strict=True,
        )
        for (mask, box, click, score, steadiness), keep in zip(columns, whole, strict=True):
            if keep:
                code = encode_mask(paste(mask, crop.box, image[:2]))
                found.append(
                    EverythingMask(code, score, steadiness, (click[0], click[1]), crop.box, tuple(box))
                )
    return found


def _suppressed(
    found: Sequence[EverythingMask], scores: Sequence[float], threshold: float
) -> list[EverythingMask]:
    """Of masks whose boxes overlap more than ``threshold`` those with the highest score, best first."""
    if not found:
        return []
    boxes = torch.tensor([one.extent for one in found], dtype=torch.float64)
    kept = nms(boxes, torch.tensor(scores, dtype=torch.float64), threshold)
    return [found[index] for index in kept.tolist()]


def _preferring_small_crops(found: Sequence[EverythingMask], threshold: float) -> list[EverythingMask]:
    areas = [Crop(one.crop, 0).area for one in found]
    return _suppressed(found, [1 / area for area in areas], threshold)


def _cleaned(found: Sequence[EverythingMask], least: int, threshold: float) -> list[EverythingMask]:
    """Without small holes and islands; where two masks become alike, one that needed no change stays."""
    cleaned, unchanged = [], []
    for one in found:
        mask, changed = without_small_regions(one.mask(), least)
        if changed:
            x0, y0, x1, y1 = extents(torch.from_numpy(mask)[None])[0].tolist()
            one = replace(one, segmentation=encode_mask(mask), extent=(x0, y0, x1, y1))
        cleaned.append(one)
        unchanged.append(float(not changed))
    return _suppressed(cleaned, unchanged, threshold)
