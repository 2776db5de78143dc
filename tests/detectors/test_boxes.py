"""Overlap and suppression against definitions written out pair by pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.datasets.boxes import box_iou, centre_to_corners, clip_boxes, nms, nms_by_group
from saqsam.detectors.detections import Detections, top_query_classes


def plain_iou(a: list[float], b: list[float]) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    shared = across * down if across > 0 and down > 0 else 0.0
    areas = [max(one[2] - one[0], 0.0) * max(one[3] - one[1], 0.0) for one in (a, b)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def plain_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda row: (-scores[row], row))
    kept: list[int] = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [row for row in left if plain_iou(boxes[best], boxes[row]) <= threshold]
    return kept


side = st.integers(0, 30)
box = st.tuples(side, side, st.integers(0, 20), st.integers(0, 20)).map(
    lambda b: [float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3])]
)
scored = st.lists(st.tuples(box, st.integers(0, 6), st.integers(0, 2)), max_size=25)


@given(st.lists(box, min_size=1, max_size=8), st.lists(box, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_iou_is_shared_over_union_of_every_pair(boxes: list[list[float]], others: list[list[float]]) -> None:
    found = box_iou(torch.tensor(boxes, dtype=torch.float64), torch.tensor(others, dtype=torch.float64))
    wanted = torch.tensor([[plain_iou(a, b) for b in others] for a in boxes], dtype=torch.float64)
    assert torch.allclose(found, wanted, atol=1e-12)


@given(scored, st.sampled_from([0.0, 0.3, 0.5, 0.65, 1.0]))
@settings(max_examples=120, deadline=None)
def test_nms_is_the_greedy_rule_and_ties_keep_their_order(
    rows: list[tuple[list[float], int, int]], threshold: float
) -> None:
    boxes, scores = [row[0] for row in rows], [row[1] / 6 for row in rows]
    kept = nms(torch.tensor(boxes).reshape(-1, 4).double(), torch.tensor(scores), threshold)
    assert kept.tolist() == plain_nms(boxes, scores, threshold)


@given(scored)
@settings(max_examples=80, deadline=None)
def test_groups_do_not_see_each_other(rows: list[tuple[list[float], int, int]]) -> None:
    boxes, scores, groups = ([row[part] for row in rows] for part in range(3))
    kept = nms_by_group(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(scores).float(),
        torch.tensor(groups, dtype=torch.int64),
        0.5,
    )
    wanted: list[int] = []
    for group in set(groups):
        members = [row for row in range(len(rows)) if groups[row] == group]
        inside = plain_nms([boxes[row] for row in members], [scores[row] for row in members], 0.5)
        wanted += [members[row] for row in inside]
    assert sorted(kept.tolist()) == sorted(wanted)
    assert kept.tolist() == sorted(wanted, key=lambda row: (-scores[row], row))


def test_nms_of_more_boxes_than_one_slice() -> None:
    torch.manual_seed(0)
    low = torch.rand(700, 2) * 150
    boxes = torch.cat([low, low + 5 + torch.rand(700, 2) * 40], 1)
    scores = torch.rand(700)
    assert nms(boxes, scores, 0.6).tolist() == plain_nms(boxes.double().tolist(), scores.tolist(), 0.6)


def test_corners_and_clipping() -> None:
    corners = centre_to_corners(torch.tensor([[10.0, 20.0, 8.0, 6.0]]))
    assert corners.tolist() == [[6.0, 17.0, 14.0, 23.0]]
    clipped = clip_boxes(torch.tensor([[-3.0, 4.0, 120.0, 61.0]]), width=100, height=60)
    assert clipped.tolist() == [[0.0, 4.0, 100.0, 60.0]]


def test_best_sorts_stably_cuts_and_drops() -> None:
    boxes = torch.arange(20.0).reshape(5, 4)
    found = Detections(boxes, torch.tensor([0.5, 0.9, 0.5, 0.1, 0.9]), torch.arange(5))
    assert found.best().labels.tolist() == [1, 4, 0, 2, 3]
    assert found.best(top_k=3).labels.tolist() == [1, 4, 0]
    assert found.best(score_threshold=0.5).labels.tolist() == [1, 4, 0, 2]
    assert found.best().boxes[2].tolist() == boxes[0].tolist()


def test_one_query_can_win_with_several_classes() -> None:
    scores = torch.tensor([[0.1, 0.8, 0.7], [0.75, 0.2, 0.3]])
    boxes = torch.tensor([[0.0, 0, 1, 1], [2.0, 2, 3, 3]])
    found = top_query_classes(scores, boxes, 3)
    assert found.labels.tolist() == [1, 0, 2]
    assert found.boxes[:, 0].tolist() == [0.0, 2.0, 0.0]


def test_detections_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\), \(3,\), \(2,\)"):
        Detections(torch.zeros(2, 4), torch.zeros(3), torch.zeros(2))
