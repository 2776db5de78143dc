"""The page of ``saqsam compare --html``: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from saqsam.cli.app import run
from saqsam.cli.compare import different
from saqsam.scenes import write_scenes

CHEAP = ("weight_ranges.method=minmax", "activation_ranges.method=minmax")
HOSTILE = "<script>alert(1)<"


@dataclass(frozen=True)
class Page:
    """A page about the float model and two seeds of a learned one, and what it was made from."""

    text: str
    models: list[str]
    set: list[str]
    run: Path

    def table(self, name: str) -> list[list[str]]:
        found = re.search(rf'<table id="{name}">(.*?)</table>', self.text, re.DOTALL)
        assert found is not None, f"the page has no table {name}"
        rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
        return [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("page")
    annotations = write_scenes(root / "scenes", 2, 11)
    images = root / "scenes" / "images"
    document = json.loads(annotations.read_text())
    first = images / document["images"][0]["file_name"]
    document["images"][0]["file_name"] = f"{HOSTILE}.png"
    first.rename(images / f"{HOSTILE}.png")
    for one in document["categories"]:
        one["name"] = f"<script>{one['name']}</script>"
    annotations.write_text(json.dumps(document))
    where = ["--images", str(images), "--annotations", str(annotations)]
    packed = []
    for seed in (1, 2):
        packed.append(str(root / f"seed{seed}.safetensors"))
        words = ["quantize", "nano", *where, "--recipe", "saq-sam-fast-w4a4", "--out", packed[-1]]
        for setting in ("reconstruct.iterations=2", "calibration.prompts=4", "clip.prompts=2", *CHEAP):
            words += ["--set", setting]
        words += ["--set", f"calibration.seed={seed}"]
        assert run([*words, *(["--run", str(root / "run")] if seed == 1 else [])]) == 0
    words = [
        "compare",
        "nano",
        *packed,
        *where,
        "--html",
        str(root / "page.html"),
        "--run",
        str(root / "run"),
    ]
    assert run(words) == 0
    assert not list(root.glob("*.part"))
    return Page((root / "page.html").read_text(encoding="utf-8"), ["nano", *packed], where, root / "run")


def figures(text: str) -> dict[str, list[Image.Image]]:
    found: dict[str, list[Image.Image]] = {}
    for data, title in re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)"', text):
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        found.setdefault(html.unescape(title), []).append(picture)
    return found


def test_every_figure_is_there_for_every_quantized_model(page: Page) -> None:
    found = figures(page.text)
    for title in ("Ranges before and after clipping", "Focus IoU over clips", "Histograms"):
        assert len(found.pop(title, [])) == 2, title
    for title in ("Error by layer", "Losses"):
        assert len(found.pop(title, [])) == 1, title
    for model in page.models[1:]:
        for word in ("worst", "median"):
            assert any(title.startswith(f"{model}, {word} of 2 images: ") for title in found), (model, word)
    assert len(found) == 4, "the overlays are all that is left"


def test_figures_are_pictures_with_something_on_them(page: Page) -> None:
    for title, pictures in figures(page.text).items():
        for picture in pictures:
            assert picture.width >= 700, title
            assert len(picture.getcolors(1 << 24) or []) > 20, title


def test_names_are_escaped_and_nothing_is_loaded(page: Page) -> None:
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;" in page.text, "the hostile file is one of the two pictures"
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page.text)
    assert all(one.startswith("data:image/png;base64,") for one in sources)


def test_means_are_those_of_the_rows_that_differ_in_their_seed(page: Page) -> None:
    heading, *rows = page.table("methods")
    means_heading, *means = page.table("means")
    assert [row[0] for row in rows] == page.models
    assert [row[:3] for row in means] == [["saq-sam-fast", "w4a4", "2"]]
    for name, text in zip(means_heading[3:], means[0][3:], strict=True):
        values = [float(row[heading.index(name)]) for row in rows[1:]]
        mean, deviation = map(float, text.split(" ± "))
        step = 0.1 if "AP" in name else 1e-4  # of what the table shows: AP in percent, shares of 1
        assert mean == pytest.approx(statistics.mean(values), abs=step), name
        assert deviation == pytest.approx(statistics.stdev(values), abs=step), name
        assert max(values) > 1 or "AP" not in name


def test_losses_of_units_recipe_and_versions_are_listed(page: Page) -> None:
    units = {json.loads(line)["unit"] for line in (page.run / "losses.jsonl").read_text().splitlines()}
    assert len(units) > 3
    for unit in units:
        assert page.text.count(f"<td>{unit}</td>") == 2, unit
    assert "focus_threshold" in page.text
    assert "<th>torch</th>" in page.text


def compare(page: Page, *words: object) -> int:
    """Run with models that do not exist: whoever looks at them first complains about them."""
    return run(["compare", "missing-a", "missing-b", *page.set, *map(str, words)])


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra_before_anything_runs(
    page: Page,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert compare(page, "--html", tmp_path / "page.html") == 2
    message = capsys.readouterr().err
    assert f"--html needs the package {package}" in message
    assert "saqsam[report]" in message


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.html").write_text("mine")
    for path, reason in (
        ("missing/page.html", "there is no directory"),
        (".", "this is a directory"),
        ("file.html", "add --force"),
        ("file.html/page.html", "there is no directory"),
    ):
        assert compare(page, "--html", tmp_path / path) == 2
        message = capsys.readouterr().err
        assert f"--html {tmp_path / path}" in message
        assert reason in message
    assert (tmp_path / "file.html").read_text() == "mine"


def test_force_replaces_a_page(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    assert run(["compare", "nano", "nano", *page.set, "--html", str(path), "--force"]) == 0
    text = path.read_text(encoding="utf-8")
    assert "<td>nano (2)</td>" in text, "two models of one name keep a row each"
    assert 'id="means"' not in text, "float models have no seed to differ in"


def test_losses_that_cannot_be_read_are_named_before_anything_runs(
    page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(page, "--run", page.run) == 2
    assert "--run belongs to --html" in capsys.readouterr().err
    shutil.copytree(page.run, tmp_path / "run")
    for content in ('{"unit": "neck", "step": 1}', "{", "[]"):
        (tmp_path / "run" / "losses.jsonl").write_text(content)
        assert compare(page, "--html", tmp_path / "page.html", "--run", tmp_path / "run") == 1
        assert str(tmp_path / "run" / "losses.jsonl") in capsys.readouterr().err


def test_integers_of_onnx_runtime_get_a_page_without_what_cannot_be_heard(page: Page, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "page.html"
    words = ["compare", *page.models[:2], *page.set, "--engine", "onnxruntime", "--html", str(path)]
    assert run(words) == 0
    titles = set(figures(path.read_text(encoding="utf-8")))
    assert {"Ranges before and after clipping", "Focus IoU over clips"} <= titles
    assert not titles & {"Histograms", "Error by layer"}


def test_names_that_occur_again_are_numbered() -> None:
    assert different(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
