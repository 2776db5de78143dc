"""A model made for crops in the page: a box is answered on its crop, as `saqsam segment` does."""

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

from saqsam.api import load, quantize
from saqsam.families.framing import preprocess
from saqsam.images.crops import cut
from saqsam.prompts.prompts import checked_prompts
from saqsam.sam import Sam
from saqsam.scenes import write_scenes
from saqsam.segment.zoom import crops_for
from saqsam.serve.start import start
from saqsam.web.write import export_web

BOX = (290, 250, 360, 330)


@pytest.fixture(scope="module")
def packed_small(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """``small`` at 8 bits, from its file."""
    place = tmp_path_factory.mktemp("small")
    annotations = write_scenes(place / "scenes", 1, 12)
    packed = place / "mine-w8a8.safetensors"
    quantize(load("small"), "rtn-w8a8", place / "scenes" / "images", annotations).save(packed)
    return load(packed)


@pytest.fixture
def opened(browser: Any, packed_small: Sam, tmp_path: Path) -> Iterator[Page]:
    export_web([str(packed_small.file)], tmp_path / "page", verify=False)
    for address in run(start([str(tmp_path / "page")], port=0)):
        visit = Page(browser, address).open().example(2)
        yield visit
        visit.close()


@pytest.mark.slow
def test_a_box_is_answered_on_its_crop(opened: Page, packed_small: Sam, shoot: Shoot) -> None:
    photo = scene(opened)
    windows_are_those_of_segment(opened)
    opened.page.evaluate(
        "() => { window.said = []; const status = document.getElementById('status');"
        " const note = () => window.said.push(status.textContent);"
        " new MutationObserver(note).observe(status, { childList: true }); }"
    )
    opened.drag(*BOX)
    opened.page.wait_for_selector("#progress", state="hidden")
    first, *_, last = opened.page.evaluate("window.said")
    assert ("Looking closer" in first, "pixels" in last) == (True, True)
    box = opened.prompts()[0]["box"]
    expected = packed_small.segment(photo, boxes=[box]).masks[0]
    whole = packed_small.segment(photo, boxes=[box], zoom=False, clip_to_box=False).masks[0]
    mask = saved_mask(opened)
    assert iou(mask, expected) > 0.97 > iou(whole, expected)
    the_input_is_the_crop(opened, packed_small, photo, box)
    (saved,) = json.loads(opened.saved("#save-prompts"))["objects"]
    assert "zoom" not in saved["command"]
    it_can_be_switched_off(opened, packed_small, photo, box)

    seen = opened.page.evaluate("window.inside().engines[0].embedding()")
    opened.page.keyboard.press("1")
    opened.page.keyboard.press("Enter")
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    opened.click(x, y)
    opened.page.keyboard.press("0")
    click = opened.prompts()[1]["points"][0]
    by_click = packed_small.segment(photo, points=[[[click["x"], click["y"]]]]).masks[0]
    assert iou(saved_mask(opened), by_click) > 0.97
    # Neither the click nor another mask of the same box made the worker encode again.
    assert opened.page.evaluate("window.inside().engines[0].embedding()") == seen
    opened.page.click("#facts-part summary")
    assert "crop around it" in opened.page.inner_text("#facts")
    shoot(opened.page, "crops-wide")


def it_can_be_switched_off(opened: Page, sam: Sam, photo: Any, box: Any) -> None:
    opened.page.uncheck("#zoom")
    opened.answered()
    expected = sam.segment(photo, boxes=[box], zoom=False).masks[0]
    assert iou(saved_mask(opened), expected) > 0.97
    (saved,) = json.loads(opened.saved("#save-prompts"))["objects"]
    assert (saved["zoom"], "--no-zoom" in saved["command"].split()) == (False, True)
    opened.page.check("#zoom")
    opened.answered()


@pytest.mark.slow
def test_the_server_answers_it_so_too(browser: Any) -> None:
    for address in run(start(["small"], port=0)):
        visit = Page(browser, address).open().example(2)
        visit.drag(*BOX)
        box = visit.prompts()[0]["box"]
        small = load("small")
        assert np.array_equal(saved_mask(visit), small.segment(scene(visit), boxes=[box]).masks[0])
        visit.page.uncheck("#zoom")
        visit.answered()
        whole = small.segment(scene(visit), boxes=[box], zoom=False).masks[0]
        assert np.array_equal(saved_mask(visit), whole)
        visit.close()


def scene(visit: Page) -> Any:
    return pixels(visit.page.request.get(f"{visit.address}examples/scene-2.png").body())


def saved_mask(visit: Page) -> Any:
    return pixels(visit.saved("#save-mask"))[..., 0] > 127


def iou(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


def windows_are_those_of_segment(visit: Page) -> None:
    """For boxes anywhere, with clicks inside and outside of them, on photos of any shape."""
    generator = np.random.default_rng(6)
    asked, expected = [], []
    for _ in range(200):
        width, height = generator.integers(2, 900, 2).tolist()
        corners = np.round(np.sort(generator.uniform(0, 1, (2, 2)), axis=0) * (width, height), 2)
        if (corners[1] - corners[0]).min() < 0.05:
            continue
        clicks = np.round(generator.uniform(0, 1, (generator.integers(0, 3), 2)) * (width - 1, height - 1), 2)
        box, points = corners.ravel().tolist(), clicks.tolist()
        asked.append(
            [{"box": box, "points": [{"x": x, "y": y, "label": 1} for x, y in points]}, width, height]
        )
        prompts = checked_prompts(width, height, boxes=[box], points=[points] if points else None).prompts
        expected.append(list(crops_for(prompts, height, width)[0].window))
    found = visit.page.evaluate(
        "async (asked) => { const { placeFor } = await import('./crops.mjs');"
        " const { model } = window.inside().engines[0];"
        " return asked.map(([one, width, height]) => placeFor(model, one, { width, height }).window); }",
        asked,
    )
    assert len(found) > 150
    assert found == expected


def the_input_is_the_crop(visit: Page, sam: Sam, photo: Any, box: Any) -> None:
    """Bit for bit."""
    (crop,) = crops_for(checked_prompts(512, 384, boxes=[box]).prompts, 384, 512)
    same = visit.page.evaluate(
        "async () => { const { view, answers, session } = window.inside();"
        " const { preprocess } = await import('./pixels.mjs');"
        " const { window: crop, frame } = answers.known(session.object)[0].place;"
        " const values = preprocess(view.photo.pixels(crop), frame);"
        " let text = ''; for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);"
        " return [crop, btoa(text)]; }"
    )
    values: torch.Tensor = preprocess(sam.model, cut(photo, crop.window))[0]
    assert tuple(same[0]) == crop.window
    assert base64.b64decode(same[1]) == values.numpy().tobytes()
