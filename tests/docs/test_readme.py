"""What the documentation says can be done, done."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from saqsam.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    """Every ``saqsam ...`` line of a page's shell blocks, continued lines joined, comments dropped."""
    text = "\n".join(blocks(page, "")).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("saqsam ")]


def test_the_five_lines_of_python_run(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 4, 31)
    (tmp_path / "scenes" / "images").rename(tmp_path / "photos")
    (code,) = blocks(ROOT / "README.md", "python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "nano-w4a4.safetensors").stat().st_size < 1_500_000
    assert float(run.stdout.strip(" []\n")) <= 1.5  # one box, one predicted IoU


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [one for one in targets if not (page.parent / one).exists()] == []


def verb_help(words: list[str], cache: dict[tuple[str, ...], str]) -> tuple[str, list[str]]:
    """The help text of the (sub)command that ``words`` call, and the rest of the words."""
    from typer.testing import CliRunner

    from saqsam.cli.app import app

    depth = 3 if words[1] == "recipe" else 2
    key = tuple(words[1:depth])
    if key not in cache:
        result = CliRunner().invoke(app, [*key, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, f"there is no verb {' '.join(key)}"
        cache[key] = result.output
    return cache[key], words[depth:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_shown_exists(page: Path) -> None:
    cache: dict[tuple[str, ...], str] = {}
    for words in commands(page):
        text, rest = verb_help(words, cache)
        for option in [word.split("=")[0] for word in rest if word.startswith("--")]:
            assert re.search(rf"{option}\b", text), f"{' '.join(words)}: {option} is not in its help"


def test_make_targets_named_in_the_readme_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    defined = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test"} <= named <= defined
