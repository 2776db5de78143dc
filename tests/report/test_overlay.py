"""Pictures of masks: right size, right pixels, and labels that can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from saqsam.images.draw import draw_masks, side_by_side


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 120, np.uint8)


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - y, columns - x) <= radius


@pytest.mark.parametrize(
    ("size", "factor"), [((400, 500), 1), ((384, 100), 1), ((383, 100), 2), ((100, 128), 3), ((1, 1), 384)]
)
def test_small_images_are_enlarged_by_a_whole_factor(size: tuple[int, int], factor: int) -> None:
    height, width = size
    picture = draw_masks(grey(height, width), np.zeros((0, height, width), bool))
    assert picture.mode == "RGB"
    assert picture.size == (width * factor, height * factor)
    assert (np.array(picture) == 120).all(), "no masks change no pixel"


def test_pixels_of_a_mask_are_tinted_its_rim_outlined_and_others_left() -> None:
    mask = disc(400, 400, 200, 150, 80)
    drawn = np.array(draw_masks(grey(400, 400), mask[None]))
    assert (drawn[~mask] == 120).all()
    inside, rim = drawn[200, 150], drawn[200, 70]
    colour = rim.astype(int)
    assert np.abs(inside.astype(int) - (120 + colour) / 2).max() <= 1
    assert (drawn[mask] != 120).any(axis=1).all()
    outlined = (drawn == rim).all(axis=2)
    assert 2 * np.pi * 80 < outlined.sum() < 4 * np.pi * 80
    assert outlined[mask].sum() == outlined.sum()


def test_a_small_mask_stays_visible_on_a_large_one() -> None:
    large, small = disc(400, 400, 200, 200, 150), disc(400, 400, 200, 200, 20)
    for masks in (np.stack([large, small]), np.stack([small, large])):
        drawn = np.array(draw_masks(grey(400, 400), masks))
        assert not np.array_equal(drawn[200, 200], drawn[200, 120])


def test_many_masks_have_many_colours() -> None:
    masks = np.stack([disc(400, 400, 20, 10 + 18 * i, 4) for i in range(20)])
    drawn = np.array(draw_masks(grey(400, 400), masks))
    assert len({tuple(drawn[20, 10 + 18 * i]) for i in range(20)}) == 20


def test_masks_that_are_empty_or_whole_are_drawn_without_fuss() -> None:
    masks = np.stack([np.zeros((50, 60), bool), np.ones((50, 60), bool)])
    picture = draw_masks(grey(50, 60), masks, labels=["nothing", "all"])
    assert picture.size == (60 * 7, 50 * 7)


def test_boxes_and_clicks_are_drawn_where_they_are() -> None:
    masks = np.zeros((1, 100, 200), bool)
    boxes, points = torch.tensor([[20.0, 30.0, 60.0, 70.0]]), torch.tensor([[[150.0, 50.0]]])
    drawn = np.array(draw_masks(grey(100, 200), masks, boxes=boxes, points=points))
    changed = (drawn != 120).any(axis=2)
    assert changed[60, 40:120].all()
    assert changed[60:140, 40].all()
    assert not changed[100, 80]
    assert changed[101, 301]
    rows, columns = np.nonzero(changed[:, 200:])
    assert (rows.min(), rows.max()) == (97, 105)
    assert (columns.min() + 200, columns.max() + 200) == (297, 305)


@pytest.mark.parametrize("corner", [(0, 0), (380, 0), (0, 390), (392, 392), (396, 200)])
def test_labels_lie_inside_the_picture_wherever_their_object_is(corner: tuple[int, int]) -> None:
    x, y = corner
    boxes = [[x, y, 400, 400]]
    drawn = np.array(
        draw_masks(grey(400, 400), np.zeros((1, 400, 400), bool), boxes=boxes, labels=["a zebra"])
    )
    black = (drawn == 0).all(axis=2)
    rows, columns = np.nonzero(black)
    whole = np.array(
        draw_masks(
            grey(400, 400), np.zeros((1, 400, 400), bool), boxes=[[100, 100, 400, 400]], labels=["a zebra"]
        )
    )
    expected = (whole == 0).all(axis=2).sum()
    assert black.sum() > 0.9 * expected
    assert rows.max() < 400
    assert columns.max() < 400


def test_a_label_wider_than_the_picture_starts_at_its_left() -> None:
    picture = draw_masks(
        grey(400, 30), np.zeros((1, 400, 30), bool), boxes=[[20, 5, 30, 30]], labels=["x" * 99]
    )
    assert (np.array(picture)[5:20, 0] != 120).any()


def test_pictures_side_by_side_keep_their_pixels() -> None:
    panels = [Image.new("RGB", (40, 30), "red"), Image.new("RGB", (50, 60), "blue")]
    sheet = np.array(side_by_side(panels, ["float", "packed w4a4"]))
    assert ((sheet == (255, 0, 0)).all(axis=2)).sum() == 40 * 30
    assert ((sheet == (0, 0, 255)).all(axis=2)).sum() == 50 * 60
    with pytest.raises(ValueError, match="zip"):
        side_by_side(panels, ["one title"])
