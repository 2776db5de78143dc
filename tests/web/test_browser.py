"""The page in a real browser: clicks, boxes, keys, what is saved, and what goes wrong."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from saqsam.api import load
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.graphs.session import open_session
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, upscale_masks
from saqsam.web.graphs import WebGraphs, WebSam

Shoot = Callable[[Any, str], None]
SECONDS = 120_000
"""Limit of a step, in milliseconds, on a machine that is busy with other things."""


class Page:
    """One open page, and how a person uses it."""

    def __init__(
        self, browser: Any, address: str, width: int = 1280, height: int = 800, **options: Any
    ) -> None:
        self.address, self.faults, self.requests = address, [], []
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> Page:
        self.page.goto(self.address)
        self.page.wait_for_selector("html[data-state=ready]")
        # A predicate that waits for an import would be a promise, which is always true.
        self.page.evaluate("async () => { window.inside = (await import('./app.mjs')).inside; }")
        return self

    def example(self, number: int = 1) -> Page:
        self.page.click(f"#examples li:nth-child({number}) button")
        self.page.wait_for_selector("html[data-state=photo]")
        return self

    def place(self, x: float, y: float, width: int = 512, height: int = 384) -> tuple[float, float]:
        """Where a pixel of the photo is on the screen; the whole photo is in sight."""
        box = self.page.locator("#canvas").bounding_box()
        zoom = min(box["width"] / width, box["height"] / height)
        left, top = (box["width"] - width * zoom) / 2, (box["height"] - height * zoom) / 2
        return box["x"] + left + x * zoom, box["y"] + top + y * zoom

    def click(self, x: float, y: float, **options: Any) -> Page:
        self.page.mouse.click(*self.place(x, y), **options)
        return self.answered()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> Page:
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place((x0 + x1) / 2, (y0 + y1) / 2))
        self.page.mouse.move(*self.place(x1, y1))
        self.page.mouse.up()
        return self.answered()

    def answered(self) -> Page:
        """Wait until the current object has its mask."""
        self.page.wait_for_function(
            "() => { const { session, answers } = window.inside();"
            " return Boolean(answers.known(session.object)); }"
        )
        self.page.wait_for_selector("#save-mask:not([disabled])")
        return self

    def prompts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(
            "async () => (await import('./app.mjs')).inside().session.objects"
            ".map(({ points, box }) => ({ points, box }))"
        )
        return found

    def saved(self, button: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.click(button)
        return Path(download.value.path()).read_bytes()

    def close(self) -> None:
        assert self.faults == []
        assert [one for one in self.requests if not one.startswith((self.address, "blob:", "data:"))] == []
        self.page.context.close()


def pixels(png: bytes) -> Any:
    return np.array(Image.open(io.BytesIO(png)))


def test_the_folder_is_whole_and_says_what_it_is(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert [(one["bits"], one["recipe"]) for one in manifest["models"]] == [("w4a8", "rtn"), ("float", None)]
    listed = [{"path": path, **row} for path, row in manifest["engine"]["files"].items()]
    for model in manifest["models"]:
        assert model["parity"]["decoder_mask_iou"] >= 0.999
        listed += model["files"].values()
    for file in listed:
        data = (exported / file["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    encoder = onnx.load(exported / "model" / "encoder.onnx")
    assert onnx.TensorProto.UINT4 in {one.data_type for one in encoder.graph.initializer}
    assert sum(one.stat().st_size for one in (exported / "model").iterdir()) < 1_500_000


def test_clicks_boxes_masks_and_what_is_saved(browser: Any, site: str, exported: Path, shoot: Shoot) -> None:
    """One visit of the page: what one sees agrees with saqsam's own masks."""
    visit = Page(browser, site).open()
    assert visit.page.evaluate("crossOriginIsolated")
    shoot(visit.page, "start-wide")
    png = (exported / "examples" / "scene-2.png").read_bytes()
    visit.page.evaluate(
        "(text) => { const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));"
        " const transfer = new DataTransfer();"
        " transfer.items.add(new File([bytes], 'scene 2.png', { type: 'image/png' }));"
        " dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true })); }",
        base64.b64encode(png).decode(),
    )
    visit.page.wait_for_selector("html[data-state=photo]")
    visit.click(250, 130)
    visit.click(300, 60, button="right")
    assert [point["label"] for point in visit.prompts()[0]["points"]] == [1, 0]
    visit.page.click("#undo")
    assert len(visit.prompts()[0]["points"]) == 1
    visit.page.click("#redo")
    assert len(visit.prompts()[0]["points"]) == 2
    visit.page.click("#undo")
    visit.answered()

    assert visit.page.locator("#masks [role=radio]").count() == 4
    visit.page.keyboard.press("2")
    assert visit.page.get_attribute("[data-slot='2']", "aria-checked") == "true"
    given = given_to(visit, exported)
    mask = pixels(visit.saved("#save-mask"))[..., 0] > 127
    (point,) = visit.prompts()[0]["points"]
    click = Prompts(
        points=torch.tensor([[[point["x"], point["y"]]]]), labels=torch.ones(1, 1, dtype=torch.int64)
    )
    embedding = Embedding(given.embedding)
    expected = decode(given.sam, embedding, click, given.frame, multimask_output=True)[0]
    assert np.array_equal(mask, upscale_masks(expected, given.frame)[0, 1].numpy())
    cut = pixels(visit.saved("#save-cutout"))
    assert np.array_equal(cut[..., 3] > 0, mask)
    assert np.array_equal(cut[mask][:, :3], given.pixels[mask])

    visit.page.keyboard.press("Enter")
    visit.drag(2, 178, 166, 382)
    coco = json.loads(visit.saved("#save-coco"))
    assert [one["name"] for one in coco["categories"]] == ["Object 1", "Object 2"]
    assert coco["annotations"][0]["area"] == mask.sum()
    prompts = json.loads(visit.saved("#save-prompts"))
    assert "--point" in prompts["objects"][0]["command"]
    box = prompts["objects"][1]["boxes"][0]
    assert box == pytest.approx([2, 178, 166, 382], abs=2)
    assert visit.page.is_hidden("#zoom")  # nano is not made for crops
    names_are_typed_and_drags_survive_another_size(visit)
    assert "pixels, IoU" in visit.page.inner_text("#figures")  # of the two models
    visit.page.fill("#split", "520")
    shoot(visit.page, "compare-wide")
    visit.page.click("#facts-part summary")
    shoot(visit.page, "facts-wide")
    everything_is_found_and_can_be_undone_or_stopped(visit, shoot)
    visit.close()


def names_are_typed_and_drags_survive_another_size(visit: Page) -> None:
    """Answers and other objects may come in between."""
    visit.page.click("#objects li:nth-child(1) input")
    visit.answered()
    visit.page.keyboard.press("End")
    visit.page.keyboard.type(" left")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove Object 1 left"
    visit.page.keyboard.press("z")
    assert visit.page.input_value("#objects li:nth-child(1) input") == "Object 1"
    visit.page.keyboard.press("n")
    visit.page.mouse.move(*visit.place(100, 100))
    visit.page.mouse.down()
    visit.page.mouse.move(*visit.place(150, 150))
    visit.page.set_viewport_size({"width": 900, "height": 700})
    visit.page.mouse.move(*visit.place(300, 250))
    visit.page.mouse.up()
    visit.answered()
    assert visit.prompts()[2]["box"] == pytest.approx([100, 100, 300, 250], abs=2)
    visit.page.set_viewport_size({"width": 1280, "height": 800})
    visit.page.mouse.move(*visit.place(100, 100))
    visit.page.mouse.down()
    visit.page.mouse.move(*visit.place(150, 150))
    visit.page.keyboard.press("Escape")
    visit.page.mouse.up()
    assert visit.prompts()[2]["box"] == pytest.approx([100, 100, 300, 250], abs=2)
    visit.page.click("#objects li:nth-child(3) .remove")


def everything_is_found_and_can_be_undone_or_stopped(visit: Page, shoot: Shoot) -> None:
    before = visit.page.locator("#objects li").count()
    visit.page.click("#everything")
    said = visit.page.wait_for_function(
        "() => document.getElementById('status').textContent.match(/^(\\d+) objects with/)?.[1]"
    )
    found = int(said.json_value())
    assert found > 3
    assert visit.page.locator("#objects li").count() == before + found
    coco = json.loads(visit.saved("#save-coco"))["annotations"][before:]
    assert len({json.dumps(one["segmentation"]) for one in coco}) == len(coco) == found
    shoot(visit.page, "everything-wide")
    visit.page.click("#undo")
    assert visit.page.locator("#objects li").count() == before
    visit.page.keyboard.press("e")
    visit.page.keyboard.press("Escape")
    visit.page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Stopped')")
    assert visit.page.locator("#objects li").count() == before


class Given:
    """What the browser's packed model was given, in the words of saqsam."""

    def __init__(self, sam: Any, embedding: torch.Tensor, frame: Frame, pixels: Any) -> None:
        self.sam, self.embedding, self.frame, self.pixels = sam, embedding, frame, pixels


def given_to(visit: Page, exported: Path) -> Given:
    """The input is saqsam's bit for bit; the embedding is the browser's."""
    found = pixels((exported / "examples" / "scene-2.png").read_bytes())
    model = load("nano").model
    values, frame = preprocess(model, found)
    same = visit.page.evaluate(
        "async () => { const { view, engines } = (await import('./app.mjs')).inside();"
        " const { preprocess } = await import('./pixels.mjs');"
        " const values = preprocess(view.photo.pixels(), engines[0].frame);"
        " let text = ''; for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);"
        " const [{ values: own, shape }] = await engines[0].embedding();"
        " return [btoa(text), Array.from(own), shape]; }"
    )
    assert base64.b64decode(same[0]) == values.numpy().tobytes()
    folder = exported / "model"
    names = ("encoder.onnx", "decoder-image.onnx", "decoder-prompts.onnx")
    graphs = WebGraphs(*((folder / name).read_bytes() for name in names))
    embedding = torch.tensor(same[1], dtype=torch.float32).reshape(same[2])
    own = open_session(graphs.encoder, "encoder").run(None, {"images": values.numpy()})[0]
    assert np.abs(own - embedding.numpy()).mean() < 0.05 * np.abs(own).mean()
    return Given(WebSam(model.config, graphs, "page"), embedding, frame, found)


def test_keys_alone_a_narrow_screen_and_no_isolation(browser: Any, plain_site: str, shoot: Shoot) -> None:
    visit = Page(browser, plain_site, 360, 740, color_scheme="dark", has_touch=True).open()
    assert not visit.page.evaluate("crossOriginIsolated")
    if visit.page.evaluate("navigator.hardwareConcurrency") > 1:
        assert "one thread only" in visit.page.text_content("#facts")
    press = visit.page.keyboard.press
    visit.page.focus("#examples li:first-child button")
    press("Enter")
    visit.page.wait_for_selector("html[data-state=photo]")
    press("ArrowRight")
    press("Space")
    visit.answered()
    press("Shift+ArrowUp")
    press("Shift+Space")
    visit.answered()
    assert [point["label"] for point in visit.prompts()[0]["points"]] == [1, 0]
    press("z")
    assert len(visit.prompts()[0]["points"]) == 1
    press("Enter")
    press("b")
    press("Shift+ArrowLeft")
    press("Shift+ArrowDown")
    press("b")
    visit.answered()
    assert visit.prompts()[1]["box"] is not None
    assert "pixels" in visit.page.inner_text("#status")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(visit.page, "narrow-dark")
    press("Escape")
    assert visit.prompts()[1] == {"points": [], "box": None}
    visit.page.click("[data-mode=subtract]")
    visit.page.touchscreen.tap(*visit.place(100, 100))
    assert visit.prompts()[1]["points"][0]["label"] == 0
    visit.close()


def fault(visit: Page) -> str:
    visit.page.goto(visit.address)
    visit.page.wait_for_selector("#fault:not([hidden])")
    return str(visit.page.inner_text("#fault"))


def test_what_goes_wrong_is_told(browser: Any, site: str, exported: Path) -> None:
    changed = bytearray((exported / "model" / "encoder.onnx").read_bytes())
    changed[-1] ^= 1
    visit = Page(browser, site)
    visit.page.route("**/model/encoder.onnx", lambda route: route.fulfill(body=bytes(changed)))
    assert "SHA-256 differs" in fault(visit)
    visit.page.route("**/manifest.json", lambda route: route.fulfill(body="{"))
    assert "manifest.json could not be read" in fault(visit)
    visit.page.add_init_script("WebAssembly.validate = () => false")
    visit.page.unroute("**/manifest.json")
    assert "WebAssembly with SIMD" in fault(visit)
    visit.close()
    visit = Page(browser, (exported / "index.html").as_uri())
    assert "opened as a file" in fault(visit)
    visit.page.context.close()


def test_the_server_computes_the_same_page(browser: Any, served: str, shoot: Shoot, tmp_path: Path) -> None:
    visit = Page(browser, served).open()
    file = tmp_path / "broken.png"
    file.write_bytes(b"no picture")
    visit.page.set_input_files("#file", file)
    visit.page.wait_for_selector("#fault:not([hidden])")
    assert "broken.png could not be read" in visit.page.inner_text("#fault")
    clear = np.random.default_rng(5).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    file = tmp_path / "clear.png"
    Image.fromarray(clear).save(file)
    visit.page.set_input_files("#file", file)
    visit.page.wait_for_selector("html[data-state=photo]")
    found = visit.page.evaluate(
        "async () => Array.from((await import('./app.mjs')).inside().view.photo.pixels())"
    )
    assert np.array_equal(np.array(found).reshape(clear.shape)[..., :3], clear[..., :3])
    part = visit.page.evaluate("Array.from(window.inside().view.photo.pixels([7, 5, 40, 25]))")
    assert np.array_equal(np.array(part).reshape(20, 33, 4)[..., :3], clear[5:25, 7:40, :3])

    visit.page.reload()
    visit.open().example(2)
    visit.page.mouse.move(*visit.place(250, 130))
    visit.page.wait_for_function("() => window.inside().view.ghost !== null")
    visit.drag(197, 86, 390, 380)
    mask = pixels(visit.saved("#save-mask"))[..., 0] > 127
    visit.page.keyboard.press("Enter")
    visit.click(330, 280)
    shoot(visit.page, "served-wide")
    box = visit.prompts()[0]["box"]
    scene = visit.page.request.get(f"{served}examples/scene-2.png").body()
    expected = load("nano").segment(pixels(scene), boxes=[box])
    assert np.array_equal(mask, expected.masks[0])
    visit.close()
