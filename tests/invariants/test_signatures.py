"""No function takes more than a dozen parameters; a verb with more options takes them in groups."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from saqsam.cli.app import run

ROOT = Path(__file__).resolve().parents[2] / "src" / "saqsam"
MOST = 12


def too_long(source: str) -> Iterator[str]:
    """Functions of a file with more than ``MOST`` parameters, as ``line name: count``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            count = len(named) + sum(one is not None for one in (given.vararg, given.kwarg))
            if count > MOST:
                yield f"{node.lineno} {getattr(node, 'name', 'lambda')}: {count}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_signature_is_longer_than_a_dozen(path: Path) -> None:
    assert list(too_long(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("form", ["def f({}): 0", "async def f({}): 0", "def f(*, {}): 0", "lambda {}: 0"])
def test_a_long_signature_is_seen(form: str) -> None:
    assert not list(too_long(form.format(", ".join(f"a{index}" for index in range(MOST)))))
    assert list(too_long(form.format(", ".join(f"a{index}" for index in range(MOST + 1)))))


def test_what_gathers_parameters_counts_as_one() -> None:
    names = ", ".join(f"a{index}" for index in range(MOST))
    assert list(too_long(f"def f({names}, **more): ..."))


@pytest.mark.parametrize(
    ("verb", "sections"),
    [
        ("compare", ["Arguments:", "Images:", "Prompts:", "Pictures and page:", "Options:"]),
        ("detect", ["Arguments:", "Detector:", "Boxes:", "Images:", "Options:"]),
        ("everything", ["Arguments:", "Files:", "Clicks and masks:", "Options:"]),
        ("quantize", ["Arguments:", "Calibration images:", "Recipe:", "Packed file and run:", "Options:"]),
        ("reproduce", ["Arguments:", "Files:", "Without ROW: which are listed:", "Options:"]),
    ],
)
def test_help_has_a_section_for_each_group(
    verb: str, sections: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == sections
