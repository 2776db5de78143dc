"""A SAM 2 in the page: pictures squashed, levels of features, object scores, a single mask that switches."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.web.conftest import run
from tests.web.test_browser import Page, Shoot, pixels

from saqsam.api import load
from saqsam.families.framing import preprocess
from saqsam.prompts.prompts import Prompts
from saqsam.sam import Sam
from saqsam.segment.predictor import decode, embed
from saqsam.serve.start import start
from saqsam.web.graphs import WebGraphs, web_sam


@pytest.fixture
def opened(browser: Any, exported_sam2: Path) -> Iterator[Page]:
    for address in run(start([str(exported_sam2)], port=0)):
        visit = Page(browser, address).open().example(2)
        yield visit
        visit.close()


@pytest.mark.slow
def test_a_sam_2_answers_as_saqsam_segments(opened: Page, exported_sam2: Path, shoot: Shoot) -> None:
    sam = load("nano-sam2")
    found = pixels((exported_sam2 / "examples" / "scene-2.png").read_bytes())
    inputs_are_equal(opened, sam)
    opened.drag(197, 86, 390, 380)
    box = opened.prompts()[0]["box"]
    by_box = sam.segment(found, boxes=[box])
    assert np.mean(saved_mask(opened) == by_box.masks[0]) > 0.9999
    assert by_box.object_scores is not None
    assert f"object score {by_box.object_scores[0]:.2f}" in opened.page.inner_text("#figures")

    x, y = a_click_that_switches(sam, found)
    opened.page.keyboard.press("Enter")
    opened.click(x, y)
    opened.page.keyboard.press("0")
    click = opened.prompts()[1]["points"][0]
    by_click = sam.segment(found, points=[[[click["x"], click["y"]]]])
    assert np.mean(saved_mask(opened) == by_click.masks[0]) > 0.9999
    prompts = json.loads(opened.saved("#save-prompts"))["objects"]
    assert prompts[1]["iou_score"] == pytest.approx(float(by_click.iou_scores[0]), abs=1e-3)
    assert prompts[0]["object_score"] == pytest.approx(float(by_box.object_scores[0]), abs=1e-3)
    shoot(opened.page, "sam2-wide")
    the_packed_model_is_its_graphs(opened, exported_sam2, sam, found, box)


def inputs_are_equal(visit: Page, sam: Sam) -> None:
    """Bit for bit, of pictures that are squashed to a square, also very tall ones, and of one that fits."""
    generator = np.random.default_rng(3)
    side = visit.page.evaluate("window.inside().engines[0].model.side")
    for height, width in ((40, 90), (700, 300), (side, 70), (side, side)):
        picture = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
        same = visit.page.evaluate(
            "async ([text, width, height, side]) => {"
            " const { frameFor, preprocess } = await import('./pixels.mjs');"
            " const rgba = Uint8ClampedArray.from(atob(text), (one) => one.charCodeAt(0));"
            " const values = preprocess(rgba, frameFor(width, height, side, false));"
            " let found = '';"
            " for (const byte of new Uint8Array(values.buffer)) found += String.fromCharCode(byte);"
            " return btoa(found); }",
            [base64.b64encode(picture.tobytes()).decode(), width, height, side],
        )
        values = preprocess(sam.model, picture[..., :3].copy())[0]
        assert base64.b64decode(same) == values.numpy().tobytes(), (height, width)


def saved_mask(visit: Page) -> Any:
    return pixels(visit.saved("#save-mask"))[..., 0] > 127


def a_click_that_switches(sam: Sam, found: Any) -> tuple[int, int]:
    """A place whose single answer is another mask than the first."""
    values, frame = preprocess(sam.model, found)
    places = [(x, y) for y in range(24, found.shape[0], 48) for x in range(24, found.shape[1], 48)]
    points = torch.tensor(places, dtype=torch.float64)[:, None]
    asked = Prompts(points=points, labels=torch.ones(len(places), 1, dtype=torch.int64))
    first = decode(sam.model, embed(sam.model, values), asked, frame)[1][:, 0]
    single = torch.from_numpy(sam.segment(found, points=points.tolist()).iou_scores)
    different = (single - first).abs()
    assert different.max() > 0.01
    return places[int(different.argmax())]


def the_packed_model_is_its_graphs(visit: Page, folder: Path, sam: Sam, found: Any, box: Any) -> None:
    """Beside it, at 4 bits: given the browser's embedding, the exported graphs give the browser's masks."""
    files = ("encoder.onnx", "decoder-image.onnx", "decoder-prompts.onnx")
    graphs = WebGraphs(*((folder / "compared" / name).read_bytes() for name in files))
    levels, logits = visit.page.evaluate(
        "async () => { const { engines, answers, session } = window.inside();"
        " const levels = await engines[1].embedding();"
        " const { masks } = answers.known(session.objects[0])[1];"
        " return [levels.map(({ name, values, shape }) => [name, Array.from(values), shape]),"
        " masks.map((one) => Array.from(one))]; }"
    )
    values, frame = preprocess(sam.model, found)
    stand_in = web_sam(sam.model.config, graphs, "page")
    own = embed(stand_in, values)  # type: ignore[arg-type]
    given = {name: torch.tensor(data).reshape(shape) for name, data, shape in levels}
    browsers = own.of([given[name] for name in stand_in.image_names])
    for one, other in zip(own.tensors, browsers.tensors, strict=True):
        assert (one - other).abs().mean() < 0.05 * one.abs().mean()
    asked = Prompts(boxes=torch.tensor([box], dtype=torch.float64))
    expected = decode(stand_in, browsers, asked, frame, multimask_output=True)[0]  # type: ignore[arg-type]
    assert np.array_equal(np.array(logits[1:]) > 0, expected[0].flatten(1).numpy() > 0)
