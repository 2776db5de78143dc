"""Figures of the page: what they show of their numbers, and that strange records do no harm."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saqsam import api
from saqsam.report.compared import look_at
from saqsam.report.curves import curves_plot, losses_plot
from saqsam.report.errors_by_site import relative_errors, samples
from saqsam.report.histograms import histograms_plot
from saqsam.report.plots import errors_plot, ranges_plot
from saqsam.report.records import ClipCurve, RangeRow, clip_curves, range_rows
from saqsam.scenes import make_scene

pytest.importorskip("matplotlib")

BLUE, ORANGE, GREY = (31, 119, 180), (255, 127, 14), (199, 199, 199)


def drawn(uri: str) -> np.ndarray[Any, Any]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def columns(picture: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Pixel columns below the legend that hold a colour."""
    body = picture[50:]
    return np.flatnonzero((abs(body - np.array(colour)).sum(-1) < 60).any(0))


def test_ranges_lie_inside_each_other_as_their_numbers_do() -> None:
    picture = drawn(ranges_plot([RangeRow("a:input", (-8.0, 8.0), (-4.0, 2.0), (-2.0, 1.0))]))
    seen, clipped, grid = (columns(picture, colour) for colour in (GREY, ORANGE, BLUE))
    assert seen.min() < clipped.min() < grid.min()
    assert grid.max() < clipped.max() < seen.max()


def test_sites_that_were_not_clipped_have_no_clip() -> None:
    picture = drawn(ranges_plot([RangeRow("a:input", (-8.0, 8.0), None, (-2.0, 1.0))]))
    assert len(columns(picture, ORANGE)) == 0
    assert len(columns(picture, BLUE)) > 0


def test_figures_grow_with_their_rows_and_stay_drawable() -> None:
    names = [f"vision_encoder.layers.{index}.attn.qkv:input" for index in range(240)]
    tall = drawn(ranges_plot([RangeRow(name, (-1.0, 1.0), None, (-1.0, 1.0)) for name in names]))
    errors = drawn(errors_plot({"m" * 300: dict.fromkeys(names, 0.1)}))
    for picture in (tall, errors):
        assert 240 * 12 < picture.shape[0] < 240 * 16, "labels of 6 points need 9 pixels"
        assert picture.shape[1] == 1045


def test_the_dot_of_a_curve_is_at_the_clip_chosen() -> None:
    percentiles = [0.9, 0.99, 0.999]
    places = []
    for percentile in percentiles:
        curve = ClipCurve("attn:query", (0.5, 0.5, 0.5), percentile, 0.9)
        picture = drawn(curves_plot([curve], percentiles))
        upper = picture[50 : picture.shape[0] // 3]
        places.append(np.flatnonzero((abs(upper - np.array(BLUE)).sum(-1) < 60).any(0)).mean())
    assert places[0] < places[1] < places[2]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=3), "nines are equally far apart"


def test_a_curve_of_another_length_than_the_percentiles_shows_its_dot_alone() -> None:
    picture = drawn(curves_plot([ClipCurve("attn:query", (0.1, 0.9), 0.99, 0.9)], [0.9, 0.99, 1.0]))
    body = picture[60:-60]
    assert 0 < (abs(body - np.array(BLUE)).sum(-1) < 60).any(0).sum() < 20


def test_losses_start_at_one_whatever_their_size() -> None:
    small, large = ([(step, size / step) for step in range(1, 4)] for size in (1e-3, 1e3))
    assert (drawn(losses_plot({"neck": small})) == drawn(losses_plot({"neck": large}))).all()
    long = drawn(losses_plot({f"unit-{index}": [(step, 0.0) for step in range(5000)] for index in range(30)}))
    assert long.shape[0] > drawn(losses_plot({"unit": small})).shape[0], "room for the legend"


def test_histograms_dash_the_ends_of_the_grid_and_leave_out_what_is_not_finite() -> None:
    values = torch.linspace(-4, 4, 1000)
    whole = drawn(histograms_plot({"a:input": [values]}, {"a:input": (-2.0, 2.0)}))
    lines = np.flatnonzero((abs(whole - np.array(BLUE)).sum(-1) < 60).sum(0) > 15)
    assert lines.max() - lines.min() == pytest.approx(0.92 * 1045 * (9.5 - 0.3) / 9.5 / 4 / 2, abs=4)
    spoilt = torch.cat([values, torch.tensor([torch.nan, torch.inf])])
    again = histograms_plot(
        {"a:input": [spoilt], "b:input": [], "c:input": [spoilt[-2:]]}, {"a:input": (-2, 2)}
    )
    assert (drawn(again) == whole).all()
    drawn(histograms_plot({"a:input": [torch.zeros(3)]}, {"a:input": (0.0, 0.0)}))


def test_names_may_hold_what_matplotlib_reads_as_formulas() -> None:
    name = r"$\frac{1}{$:input"
    drawn(ranges_plot([RangeRow(name, (-1.0, 1.0), None, (-1.0, 1.0))]))
    drawn(errors_plot({name: {name: 0.5}}))
    drawn(losses_plot({name: [(1, 1.0)]}))
    drawn(histograms_plot({name: [torch.ones(2)]}, {name: (0.0, 1.0)}))


def test_errors_are_those_of_the_outputs() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    x = torch.randn(4, 8)
    reference, inputs = samples({"layer": layer}, {"layer": layer}, lambda: layer(x))
    assert torch.equal(inputs["layer"][0], x.flatten())
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.mul_(2)
    doubled, _ = samples({"layer": layer}, {}, lambda: layer(x))
    assert relative_errors(reference, doubled)["layer"] == pytest.approx(1.0, abs=1e-6)
    twice, _ = samples({"layer": layer}, {}, lambda: [layer(x), layer(x)])
    assert relative_errors(reference, twice) == {}, "calls that do not correspond are not compared"
    assert not layer._forward_hooks


STRANGE: list[Any] = [None, 3, "x", [1], {"clips": 4}, {"site": 5}, {"site": "a:query", "curve": "long"}]


def test_strange_records_are_left_out() -> None:
    good = {"site": "a:query", "low": -2, "high": 2, "clip_low": -1, "clip_high": 1}
    good |= {"curve": [0.5, 0.9], "percentile": 0.9, "iou_after": 0.9, "iou_before": 0.4}
    nan = {**good, "curve": [float("nan")], "low": None}
    rows = [{"path": "a", "role": "query", "min": -1.0, "max": 1.0}]
    for records in ({}, {"clips": None, "ranges": []}, {"clips": 3, "ranges": {"a:query": 7}}):
        assert range_rows({"records": records, "sites": rows}) == [
            RangeRow("a:query", None, None, (-1.0, 1.0))
        ]
        assert clip_curves({"records": records}) == []
    facts = {"records": {"clips": [*STRANGE, nan, good]}, "sites": rows}
    assert clip_curves(facts) == [ClipCurve("a:query", (0.5, 0.9), 0.9, 0.9)]
    assert range_rows(facts) == [RangeRow("a:query", (-2.0, 2.0), (-1.0, 1.0), (-1.0, 1.0))]


def test_every_layer_of_the_embedded_model_is_heard() -> None:
    sam = api.load("nano")
    pixels = make_scene(np.random.default_rng(0)).image
    looked = look_at(sam, lambda: sam.segment(pixels, boxes=[[10, 10, 90, 90]]))
    assert len(looked.outputs) > 40
    assert all(looked.outputs.values())
    assert looked.inputs == {}, "a float model has no quantizers"
