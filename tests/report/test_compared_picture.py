"""A difference between two models is seen without looking for it, however small the object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from saqsam.images.difference import FRAME, ONLY_FIRST, ONLY_SECOND, draw_difference, overlaps
from saqsam.images.draw import draw_masks
from saqsam.images.labels import Labels, with_key, wrapped
from saqsam.report.compared_picture import Drawn, compared_picture

Masks = npt.NDArray[np.bool_]


def photograph(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def square(height: int, width: int, y: int, x: int, side: int) -> Masks:
    mask = np.zeros((1, height, width), bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


def share(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == colour).all(axis=2).sum())


def test_pixels_of_only_one_model_have_its_colour() -> None:
    pixels = photograph(400, 500)
    first, second = square(400, 500, 100, 100, 50), square(400, 500, 100, 110, 50)
    drawn = np.asarray(draw_difference(pixels, first, second, ("float", "w4a4")))
    for place, colour in (((120, 106), ONLY_FIRST), ((120, 153), ONLY_SECOND)):
        assert tuple(drawn[place]) == colour
    assert drawn[:400][~(first | second)[0]].mean() < 120, "the rest is dark"
    assert overlaps(first, second)[0] == pytest.approx(40 / 60)


def test_equal_masks_leave_no_colour_and_no_frame() -> None:
    mask = square(400, 500, 100, 100, 50)
    drawn = draw_difference(photograph(400, 500), mask, mask, ("float", "w4a4")).crop((0, 0, 500, 400))
    assert share(drawn, ONLY_FIRST) == share(drawn, ONLY_SECOND) == share(drawn, FRAME) == 0


def test_a_tiny_object_on_a_large_photograph_is_framed_and_stands_enlarged() -> None:
    pixels = photograph(1500, 2000)
    first, second = square(1500, 2000, 700, 900, 8), square(1500, 2000, 700, 904, 8)
    models = [Drawn("float", first, labels=["bird 0.90"]), Drawn("w4a4", second, labels=["bird 0.70"])]
    picture = compared_picture(pixels, models)
    assert share(picture, FRAME) > 4 * 20, "a frame that can be seen around eight pixels"
    assert share(picture, ONLY_FIRST) > 4000, "and its difference, enlarged"
    assert share(picture, ONLY_SECOND) > 4000
    assert picture.width < 4 * 1100


def test_a_large_object_needs_no_close_up() -> None:
    pixels = photograph(400, 500)
    models = [Drawn("a", square(400, 500, 0, 0, 380)), Drawn("b", square(400, 500, 10, 0, 380))]
    alone = compared_picture(pixels, models)
    assert alone.height < 500


def test_labels_never_lie_over_one_another() -> None:
    picture = Image.new("RGB", (300, 200), (120, 120, 120))
    labels = Labels(picture)
    written = [labels.write(f"person 0.{index}", (40, 50, 90, 90), (255, 0, 0)) for index in range(30)]
    assert written[0]
    assert not all(written), "where there is no room, words are left out"
    black = (np.asarray(picture) == 0).all(axis=2).sum()
    one = Image.new("RGB", (300, 200), (120, 120, 120))
    Labels(one).write("person 0.0", (40, 50, 90, 90), (255, 0, 0))
    assert black > 0.9 * sum(written) * (np.asarray(one) == 0).all(axis=2).sum()


def test_long_titles_take_several_lines() -> None:
    for text in (
        "packed/saq-sam-star-w4a4 of the second seed",
        "/a/very/long/path/without/any/space.safetensors",
    ):
        lines = wrapped(text, 120)
        assert len(lines) > 1
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("float", 120) == ["float"]


def test_a_key_says_what_colours_mean() -> None:
    picture = with_key(
        Image.new("RGB", (100, 50), "white"), [("class 1", (1, 2, 3)), ("class 20", (4, 5, 6))]
    )
    assert picture.width == 100
    assert share(picture, (1, 2, 3)) > 50
    assert share(picture, (4, 5, 6)) > 50


def test_an_object_without_box_or_click_is_drawn_without() -> None:
    pixels = np.full((400, 500, 3), 90, np.uint8)
    masks = np.concatenate([square(400, 500, 50, 60, 40), square(400, 500, 250, 300, 40)])
    boxes = np.array([[55, 45, 110, 100], [np.nan] * 4])
    clicks = np.array([[[np.nan, np.nan]], [[320, 270]]])
    drawn = np.asarray(draw_masks(pixels, masks, boxes=boxes, points=clicks))
    plain = np.asarray(draw_masks(pixels, masks))
    changed = np.argwhere((drawn != plain).any(axis=2))
    near_box, near_click = changed[:, 1] < 200, changed[:, 1] >= 200
    assert near_box.any()
    assert changed[near_box].min(0).tolist() == [45, 55], "the frame of the box"
    assert near_click.any()
    assert np.abs(changed[near_click] - (270, 320)).max() <= 6, "the dot of the click"
