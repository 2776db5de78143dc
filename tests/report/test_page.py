"""The page of ``saqsam compare --html``: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from saqsam.cli.app import run
from saqsam.cli.pictures import picture_name
from saqsam.scenes import write_scenes

HOSTILE = "<script>alert(1)<"


def test_a_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    annotations = write_scenes(tmp_path / "scenes", 2, 11)
    images = tmp_path / "scenes" / "images"
    document = json.loads(annotations.read_text())
    name = f"{HOSTILE}.png"
    (images / document["images"][0]["file_name"]).rename(images / name)
    document["images"][0]["file_name"] = name
    for one in document["categories"]:
        one["name"] = f"<script>{one['name']}</script>"
    annotations.write_text(json.dumps(document))
    where = ["--images", str(images), "--annotations", str(annotations)]
    packed, page = str(tmp_path / "packed.safetensors"), tmp_path / "page.html"
    assert run(["quantize", "nano", *where, "--recipe", "rtn-w4a4", "--out", packed]) == 0
    assert run(["compare", "nano", packed, *where, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text, "the hostile file is one of the two pictures"
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 4
    assert all(one.startswith("data:image/png;base64,") for one in sources)
    assert "rtn" in text
    assert [entry for entry in tmp_path.iterdir() if entry.name.endswith(".part")] == []


def test_a_page_in_no_folder_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_scenes(tmp_path / "scenes", 2, 11)
    words = ["compare", "nano", "nano", "--images", str(tmp_path / "scenes" / "images")]
    words += ["--annotations", str(annotations), "--html", str(tmp_path / "missing" / "page.html")]
    assert run(words) == 2
    assert "--html" in capsys.readouterr().err


def test_images_of_one_name_in_two_folders_get_two_pictures() -> None:
    taken: set[str] = set()
    names = [picture_name(name, taken) for name in ("a/1.png", "b/1.png", "b_1.jpg", "b/1.jpg")]
    assert names[0] == "1.png"
    assert len(set(names)) == len(names)
