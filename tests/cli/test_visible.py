"""Names with marks that cannot be seen are shown with them spelled out, wherever a person reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import Ground, Saqsam

from saqsam.visible import visible

OVERRIDE = "\u202e"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain name.png", "plain name.png"),
        (f"a{OVERRIDE}gnp.exe", "a\\u202egnp.exe"),
        ("Bildschirmfoto 3.04\u202fPM.png", "Bildschirmfoto 3.04\\u202fPM.png"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines", "two\\nlines"),
        ("a\u3164b", "a\\u3164b"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("Größe 模型 صورة 🐢 全　角", "Größe 模型 صورة 🐢 全　角"),
    ],
)
def test_what_shows_nothing_is_spelled_out_and_letters_of_all_scripts_stay(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_messages_and_tables(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    shown = saqsam("inspect", tmp_path / f"model{OVERRIDE}snk.pth")
    assert shown.code != 0
    assert OVERRIDE not in shown.err
    assert "model\\u202esnk.pth" in shown.err
    named = tmp_path / f"packed{OVERRIDE}.safetensors"
    shutil.copy(ground.packed, named)
    shown = saqsam("verify", named)
    assert shown.code == 0
    assert OVERRIDE not in shown.out
    assert "packed\\u202e.safetensors" in shown.out
    assert saqsam("verify", named, "--json").result["file"] == str(named), "programs get names as they are"


def test_the_report(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    document = json.loads(ground.annotations.read_text())
    document["categories"][0]["name"] = f"evil{OVERRIDE}taog"
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(document))
    page = tmp_path / "page.html"
    words = ["--images", ground.images, "--annotations", annotations, "--html", page, "--limit", "1"]
    assert saqsam("compare", "nano", ground.packed, *words).code == 0
    text = page.read_text(encoding="utf-8")
    assert OVERRIDE not in text
    assert "evil\\u202etaog" in text
