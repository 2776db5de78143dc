"""Overlap, suppression, precision and patches, against arithmetic written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.tasks.dota_patches import Patching, assigned, windows_of
from saqsam.tasks.oriented_ap import (
    OrientedDetection,
    OrientedObject,
    area_under,
    eleven_point,
    oriented_ap,
)
from saqsam.tasks.oriented_boxes import (
    box_corners,
    mask_corners,
    oriented_iou,
    oriented_nms,
    polygon_area,
    upright,
)

quick = settings(max_examples=60, deadline=None)


def rectangle(x: float, y: float, width: float, height: float, angle: float) -> Any:
    """Corners of a rectangle about its middle, turned by ``angle``."""
    cosine, sine = math.cos(angle), math.sin(angle)
    halves = [(-width, -height), (width, -height), (width, height), (-width, height)]
    return np.array([[x + (a * cosine - b * sine) / 2, y + (a * sine + b * cosine) / 2] for a, b in halves])


rectangles = st.builds(
    rectangle,
    st.floats(0, 40),
    st.floats(0, 40),
    st.floats(1, 30),
    st.floats(1, 30),
    st.floats(-math.pi, math.pi),
)


def shoelace(polygon: list[Any]) -> float:
    return 0.5 * sum(
        a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    )


def clipped(polygon: list[Any], window: list[Any]) -> list[Any]:
    """Sutherland and Hodgman: cut a polygon by each edge of a convex window, both counter-clockwise."""
    for a, b in zip(window, [*window[1:], *window[:1]], strict=True):

        def side(p: Any, a: Any = a, b: Any = b) -> float:
            return float((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]))

        result = []
        for p, q in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
            if side(p) >= 0:
                result.append(p)
            if (side(p) >= 0) != (side(q) >= 0):
                share = side(p) / (side(p) - side(q))
                result.append((p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1])))
        polygon = result
        if not polygon:
            return []
    return polygon


def overlap(one: Any, other: Any) -> float:
    here, there = ([tuple(p) for p in corners.tolist()] for corners in (one, other))
    here = here if shoelace(here) > 0 else here[::-1]
    there = there if shoelace(there) > 0 else there[::-1]
    meeting = clipped(here, there)
    shared = abs(shoelace(meeting)) if meeting else 0.0
    return shared / (abs(shoelace(here)) + abs(shoelace(there)) - shared)


@settings(max_examples=200, deadline=None)
@given(one=rectangles, other=rectangles)
def test_overlap_of_turned_rectangles(one: Any, other: Any) -> None:
    assert oriented_iou(one[None], other[None])[0, 0] == pytest.approx(overlap(one, other), abs=1e-9)


def test_overlap_does_not_depend_on_the_order_of_corners() -> None:
    square = box_corners([0, 0, 10, 10])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [0, 2, 1, 3]):
        assert oriented_iou(square[None], square[order][None])[0, 0] == pytest.approx(1.0)
    assert polygon_area(square[[0, 2, 1, 3]]) == pytest.approx(100.0)


@quick
@given(boxes=st.lists(rectangles, max_size=12), seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.9))
def test_suppression(boxes: list[Any], seed: int, threshold: float) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, len(boxes)).tolist()
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    assert oriented_nms(np.array(boxes).reshape(-1, 4, 2), scores, threshold) == kept


@quick
@given(seed=st.integers(0, 10_000), angle=st.floats(0, math.pi))
def test_rectangle_around_a_mask_is_the_smallest(seed: int, angle: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 30), bool)
    mask[rng.integers(0, 24, 5), rng.integers(0, 30, 5)] = True
    found = mask_corners(mask)
    assert found is not None
    rows, columns = np.nonzero(mask)
    pixels = np.array(
        [(x + a, y + b) for x, y in zip(columns, rows, strict=True) for a in (0, 1) for b in (0, 1)]
    )
    ccw = found if shoelace(found.tolist()) > 0 else found[::-1]
    for a, b in zip(ccw, np.roll(ccw, -1, axis=0), strict=True):
        cross = (b[0] - a[0]) * (pixels[:, 1] - a[1]) - (b[1] - a[1]) * (pixels[:, 0] - a[0])
        assert (cross >= -1e-6).all(), "every pixel lies inside"
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    extent = np.ptp(pixels @ turn.T, axis=0)
    assert polygon_area(found) <= extent[0] * extent[1] + 1e-6


def test_no_rectangle_around_nothing() -> None:
    assert mask_corners(np.zeros((4, 4), bool)) is None


def precision_by_hand(
    objects: dict[int, list[OrientedObject]], found: list[OrientedDetection], category: int
) -> tuple[float, float]:
    """VOC's rules one detection at a time, then every recall one at a time."""
    wanted = sum(
        one.category_id == category and not one.difficult for group in objects.values() for one in group
    )
    taken: set[tuple[int, int]] = set()
    right = wrong = 0
    points = []
    for one in sorted((one for one in found if one.category_id == category), key=lambda one: -one.score):
        best, place = 0.0, None
        for index, other in enumerate(objects.get(one.image_id, [])):
            if other.category_id == category and overlap(one.corners, other.corners) > best:
                best, place = overlap(one.corners, other.corners), index
        if best > 0.5 and place is not None:
            if objects[one.image_id][place].difficult:
                pass
            elif (one.image_id, place) in taken:
                wrong += 1
            else:
                taken.add((one.image_id, place))
                right += 1
        else:
            wrong += 1
        points.append((right / wanted, right / max(1, right + wrong)))
    eleven = sum(max([p for r, p in points if r >= step / 10], default=0.0) for step in range(11)) / 11
    area = before = 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return eleven, area


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_average_precision(data: Any) -> None:
    truth = {
        image: [
            OrientedObject(data.draw(st.integers(1, 2)), data.draw(rectangles), data.draw(st.booleans()))
            for _ in range(data.draw(st.integers(0, 4)))
        ]
        for image in (1, 2)
    }
    found = []
    for number in range(data.draw(st.integers(0, 8))):
        image = data.draw(st.sampled_from((1, 2)))
        near = data.draw(st.booleans()) and truth[image]
        corners = data.draw(st.sampled_from(truth[image])).corners + 0.3 if near else data.draw(rectangles)
        found.append(OrientedDetection(image, data.draw(st.integers(1, 2)), corners, 1 - number / 10))
    for category in (1, 2):
        result = oriented_ap(truth, found, category)
        counted = sum(
            one.category_id == category and not one.difficult for group in truth.values() for one in group
        )
        assert result.objects == counted
        if not counted:
            assert result.AP50 == result.AP50_area == -1
            continue
        eleven, area = precision_by_hand(truth, found, category)
        assert pytest.approx(eleven) == result.AP50
        assert result.AP50_area == pytest.approx(area)


def test_precision_of_a_curve_drawn_by_hand() -> None:
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert eleven_point(recall, precision) == pytest.approx((6 * 1.0 + 5 * 2 / 3) / 11)
    assert area_under(recall, precision) == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 3)


@quick
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    size=st.integers(20, 300),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_patches_cover_the_image_and_every_box_is_asked_once(
    height: int, width: int, size: int, share: float, seed: int
) -> None:
    patching = Patching(size, int(share * size))
    windows = windows_of(height, width, patching)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(size, width), min(size, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(set(windows)) == len(windows)
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (6, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    places = assigned(boxes, height, width, patching)
    assert sorted(row for rows in places.values() for row in rows) == list(range(6))
    for (x0, y0, x1, y1), rows in places.items():
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        for row in rows:
            assert x0 <= boxes[row, 0]
            assert y0 <= boxes[row, 1]
            assert boxes[row, 2] <= x1
            assert boxes[row, 3] <= y1


def test_dota_patches_are_those_of_its_development_kit() -> None:
    columns = sorted({window[0] for window in windows_of(1024, 2500, Patching())})
    assert columns == [0, 824, 1476]
    assert windows_of(600, 800, Patching()) == [(0, 0, 800, 600)]


def test_upright_boxes() -> None:
    assert upright(rectangle(10, 10, 4, 2, math.pi / 2)[None])[0] == pytest.approx([9, 8, 11, 12])
