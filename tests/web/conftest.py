"""A headless Chromium, where the machine has one, and pages for it to open."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saqsam.api import load, quantize
from saqsam.cli.app import app
from saqsam.scenes import write_scenes
from saqsam.serve.start import Serving, start
from saqsam.web.write import export_web


@pytest.fixture(scope="session")
def exported(packed_nano: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with nano at 4 bits and in float beside each other, written by the command."""
    out = tmp_path_factory.mktemp("page") / "out"
    words = [
        "export",
        str(packed_nano("rtn-w4a8")),
        "--compare",
        "nano",
        "--format",
        "web",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, [*words, "--limit", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.count("mask IoU with the model") == 2
    return out


@pytest.fixture(scope="session")
def exported_sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with nano-sam2 in float, and at 4 bits beside it."""
    place = tmp_path_factory.mktemp("page-sam2")
    annotations = write_scenes(place / "scenes", 1, 12)
    packed = place / "nano-sam2-w4a8.safetensors"
    quantize(load("nano-sam2"), "rtn-w4a8", place / "scenes" / "images", annotations).save(packed)
    export_web(["nano-sam2", packed], place / "out", limit=1)
    return place / "out"


def run(serving: Serving) -> Iterator[str]:
    """Answer requests in a thread; the address."""
    thread = threading.Thread(
        target=serving.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    yield serving.address
    serving.server.shutdown()
    thread.join()
    serving.close()


@pytest.fixture(scope="session")
def site(exported: Path) -> Iterator[str]:
    """The exported folder, offered by ``saqsam serve FOLDER``."""
    yield from run(start([str(exported)], port=0))


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """nano, computed by ``saqsam serve``."""
    yield from run(start(["nano"], port=0))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is told."""


@pytest.fixture(scope="session")
def plain_site(exported: Path) -> Iterator[str]:
    """The exported folder by a server that knows nothing of it and sends none of the headers."""
    _Quiet.extensions_map = {**_Quiet.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}
    handler = functools.partial(_Quiet, directory=str(exported))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of the system, driven by playwright; the test is skipped where one of them is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'saqsam[browser]'")
    found = os.environ.get("SAQSAM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium, or set SAQSAM_CHROMIUM to its path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def shoot() -> Callable[[Any, str], None]:
    """Keep a picture of a page in the folder that SAQSAM_SCREENSHOTS names, if it names one."""

    def keep(page: Any, name: str) -> None:
        folder = os.environ.get("SAQSAM_SCREENSHOTS")
        if folder:
            page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    return keep
