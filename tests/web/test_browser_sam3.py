"""A SAM 3's tracker in the page: values around zero, turned queries, object scores."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.families.sam3_models import tiny_sam3
from tests.web.conftest import run
from tests.web.test_browser import Page, pixels

from saqsam.api import load
from saqsam.families.framing import preprocess
from saqsam.serve.start import start
from saqsam.web.write import export_web


@pytest.mark.slow
def test_a_sam_3_answers_as_saqsam_segments(browser: Any, tmp_path: Path) -> None:
    tiny_sam3().save_pretrained(tmp_path / "mine")
    export_web([tmp_path / "mine"], tmp_path / "page", limit=1)
    sam = load(tmp_path / "mine")
    found = pixels((tmp_path / "page" / "examples" / "scene-2.png").read_bytes())
    for address in run(start([str(tmp_path / "page")], port=0)):
        visit = Page(browser, address).open().example(2)
        given = visit.page.evaluate(
            "async () => { const { view, engines } = window.inside();"
            " const { preprocess } = await import('./pixels.mjs');"
            " const values = preprocess(view.photo.pixels(), engines[0].frame, engines[0].model);"
            " let text = '';"
            " for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);"
            " return btoa(text); }"
        )
        assert base64.b64decode(given) == preprocess(sam.model, found)[0].numpy().tobytes()

        visit.drag(197, 86, 390, 380)
        by_box = sam.segment(found, boxes=[visit.prompts()[0]["box"]])
        assert np.mean(saved_mask(visit) == by_box.masks[0]) > 0.9999
        assert by_box.object_scores is not None
        assert f"object score {by_box.object_scores[0]:.2f}" in visit.page.inner_text("#figures")

        visit.page.keyboard.press("Enter")
        visit.click(250, 130)
        visit.page.keyboard.press("0")
        click = visit.prompts()[1]["points"][0]
        by_click = sam.segment(found, points=[[[click["x"], click["y"]]]])
        assert np.mean(saved_mask(visit) == by_click.masks[0]) > 0.9999
        assert 0 < by_click.masks[0].mean() < 1
        visit.close()


def saved_mask(visit: Page) -> Any:
    return pixels(visit.saved("#save-mask"))[..., 0] > 127
