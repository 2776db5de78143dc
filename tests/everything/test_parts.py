"""Crops, grids and filters against loops written from the published description."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.datasets.boxes import nms
from saqsam.errors import UsageError
from saqsam.everything.crops import crops_of, grid_for
from saqsam.everything.filters import extents, stability_scores, touches_crop_edge, without_small_regions
from saqsam.everything.options import EverythingOptions, options_from

quick = settings(max_examples=60, deadline=None)


def crop_list(height: int, width: int, layers: int, ratio: float) -> list[tuple[int, ...]]:
    """Crops as the appendix of Segment Anything and its mask generator lay them out, without those that
    begin past the border: 41 pixels make eight stretches of 6, the last of them from 42 on."""
    boxes = [(0, 0, width, height, 0)]
    for layer in range(layers):
        count = 2 ** (layer + 1)
        overlap = int(ratio * min(height, width) * (2 / count))
        crop_width = math.ceil((overlap * (count - 1) + width) / count)
        crop_height = math.ceil((overlap * (count - 1) + height) / count)
        for i in range(count):
            for j in range(count):
                x, y = (crop_width - overlap) * i, (crop_height - overlap) * j
                boxes.append((x, y, min(x + crop_width, width), min(y + crop_height, height), layer + 1))
    return [box for box in boxes if box[0] < box[2] and box[1] < box[3]]


@quick
@given(
    height=st.integers(40, 900), width=st.integers(40, 900), layers=st.integers(0, 3), ratio=st.floats(0, 0.6)
)
def test_crops_are_the_published_ones_and_cover_the_image(
    height: int, width: int, layers: int, ratio: float
) -> None:
    options = EverythingOptions(crop_n_layers=layers, crop_overlap_ratio=ratio)
    crops = crops_of(height, width, options)
    assert [(*crop.box, crop.layer) for crop in crops] == crop_list(height, width, layers, ratio)
    for layer in range(layers + 1):
        covered = np.zeros((height, width), bool)
        for crop in crops:
            if crop.layer == layer:
                x0, y0, x1, y1 = crop.box
                covered[y0:y1, x0:x1] = True
        assert covered.all()


@quick
@given(height=st.integers(1, 12), width=st.integers(1, 12), layers=st.integers(0, 4))
def test_tiny_images_have_no_empty_crops(height: int, width: int, layers: int) -> None:
    options = EverythingOptions(crop_n_layers=layers)
    for crop in crops_of(height, width, options):
        x0, y0, x1, y1 = crop.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


@pytest.mark.parametrize(("side", "factor", "layer", "expected"), [(4, 1, 0, 4), (5, 2, 1, 2), (3, 2, 3, 1)])
def test_grids_are_centred_and_thin_out(side: int, factor: int, layer: int, expected: int) -> None:
    options = EverythingOptions(
        points_per_side=side, crop_n_points_downscale_factor=factor, crop_n_layers=layer
    )
    by_hand = [
        ((column + 0.5) / expected, (row + 0.5) / expected)
        for row in range(expected)
        for column in range(expected)
    ]
    np.testing.assert_allclose(grid_for(layer, options), by_hand)


@quick
@given(seed=st.integers(0, 10_000), offset=st.floats(0, 2))
def test_stability_counts_pixels(seed: int, offset: float) -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 2
    for plane, found in zip(logits.tolist(), stability_scores(logits, offset).tolist(), strict=True):
        values = [value for row in plane for value in row]
        inner = sum(torch.tensor(value) > offset for value in values)
        outer = sum(torch.tensor(value) > -offset for value in values)
        if outer:
            assert found == pytest.approx(float(inner / outer))
        else:
            assert math.isnan(found)


@quick
@given(seed=st.integers(0, 10_000), share=st.floats(0, 0.6))
def test_extents_are_first_and_last_pixel(seed: int, share: float) -> None:
    masks = np.random.default_rng(seed).random((4, 5, 7)) < share
    for mask, found in zip(masks, extents(torch.from_numpy(masks)).tolist(), strict=True):
        pixels = [(x, y) for y in range(5) for x in range(7) if mask[y, x]]
        columns, rows = [x for x, _ in pixels], [y for _, y in pixels]
        expected = [min(columns), min(rows), max(columns), max(rows)] if pixels else [0, 0, 0, 0]
        assert found == expected


@quick
@given(box=st.tuples(*[st.integers(0, 200)] * 4), crop=st.sampled_from([(0, 0, 120, 90), (80, 60, 200, 150)]))
def test_edges_of_a_crop_count_where_the_image_goes_on(box: Any, crop: tuple[int, int, int, int]) -> None:
    image_box = (0, 0, 200, 150)
    expected = any(
        abs(side - cut) <= 20 and abs(side - border) > 20
        for side, cut, border in zip(box, crop, image_box, strict=True)
    )
    assert touches_crop_edge(np.array([box]), crop, (150, 200)).tolist() == [expected]


def overlap(a: Any, b: Any) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    return across * down / union if union > 0 else 0.0


def suppress(boxes: Any, scores: Any, threshold: float) -> list[int]:
    """Greedy suppression, one pair at a time."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda one: -scores[one]):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@quick
@given(seed=st.integers(0, 10_000), count=st.integers(0, 25), threshold=st.floats(0.1, 0.9))
def test_suppression_keeps_the_first_of_equals(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 12, (count, 2))], axis=1).astype(float)
    scores = rng.integers(0, 4, count).astype(float)  # many ties
    found = nms(torch.from_numpy(boxes.reshape(-1, 4)), torch.from_numpy(scores), threshold).tolist()
    assert found == suppress(boxes.tolist(), scores.tolist(), threshold)


def flood(mask: Any) -> list[set[tuple[int, int]]]:
    """Regions joined by sides and corners."""
    left = {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}
    regions = []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        regions.append(region)
    return regions


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), least=st.integers(1, 12))
def test_small_holes_are_filled_and_small_islands_dropped(seed: int, share: float, least: int) -> None:
    mask = np.random.default_rng(seed).random((7, 8)) < share
    expected = mask.copy()
    for hole in flood(~mask):
        if len(hole) < least:
            expected[tuple(zip(*hole, strict=True))] = True
    islands = flood(expected)
    largest = max((len(island) for island in islands), default=0)
    found, changed = without_small_regions(mask, least)
    for island in islands:
        rows = tuple(zip(*island, strict=True))
        if len(island) >= least:
            assert found[rows].all()
        elif largest >= least:
            assert not found[rows].any()
    if islands and largest < least:  # one of the largest stays, whole
        assert [len(island) for island in flood(found)] == [largest]
    assert not (found & ~expected).any()
    assert changed == bool((found != mask).any())


@pytest.mark.parametrize(
    ("given_settings", "words"),
    [
        ({"points_per_sid": 3}, "did you mean points_per_side"),
        ({"points_per_side": 0}, "points_per_side"),
        ({"points_per_side": 2.5}, "whole number"),
        ({"points_per_side": 100_000}, "at most"),
        ({"crop_n_layers": 9}, "at most"),
        ({"crop_n_layers": True}, "crop_n_layers"),
        ({"pred_iou_thresh": "high"}, "pred_iou_thresh"),
        ({"pred_iou_thresh": math.nan}, "pred_iou_thresh"),
        ({"pred_iou_thresh": 88}, "0.88 for 88 %"),
        ({"stability_score_thresh": 1.01}, "from 0 to 1"),
        ({"box_nms_thresh": -0.1}, "from 0 to 1"),
        ({"crop_nms_thresh": 700.0}, "from 0 to 1"),
        ({"stability_score_offset": -1}, "below 0"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio"),
        ({"min_mask_region_area": -1}, "min_mask_region_area"),
        ({"point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1}, "2 arrays"),
        ({"point_grids": [[[0.5, 1.5]]]}, "from 0 to 1"),
        ({"point_grids": [[["a", "b"]]]}, "no number"),
        ({"point_grids": [[0.5, 0.5]]}, "shape"),
    ],
)
def test_settings_that_cannot_be_are_refused(given_settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options_from(given_settings)
