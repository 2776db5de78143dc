"""docs/errors.md and the help say of exit codes what saqsam.errors does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from saqsam import errors
from saqsam.cli import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def exceptions() -> dict[str, int]:
    """Every exception of saqsam and its exit code."""
    classes = inspect.getmembers(errors, inspect.isclass)
    return {name: kind.exit_code for name, kind in classes if issubclass(kind, errors.SaqsamError)}


def drawn(text: str) -> dict[str, tuple[int, int]]:
    """Name to (depth, code) of the tree drawn in a text."""
    rows = re.findall(r"^([│├└─ ]*)([A-Z]\w+) +(\d)\b", text, re.M)
    root = len(rows[0][0])
    return {name: ((len(branch) - root) // 4, int(code)) for branch, name, code in rows}


def test_the_page_draws_the_tree_as_it_is() -> None:
    for text in (PAGE.split("```")[-2], errors.__doc__ or ""):
        tree = drawn(text)
        assert {name: code for name, (_, code) in tree.items()} == exceptions()
        above: list[str] = []
        for name, (depth, _) in tree.items():
            del above[depth:]
            if above:
                assert getattr(errors, name).__base__.__name__ == above[-1], name
            above.append(name)


def test_the_table_of_codes_names_every_code() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| .* \|(.*)\|$", PAGE, re.M))
    assert {int(code) for code in rows} == {0, *exceptions().values(), 130, 143}
    named = {
        int(code): set(re.findall(r"`(\w+)`", words)) & set(exceptions()) for code, words in rows.items()
    }
    for code, names in named.items():
        assert {exceptions()[name] for name in names} <= {code}
    for name, code in exceptions().items():
        above = {kind.__name__ for kind in getattr(errors, name).__mro__}
        assert above & named[code], f"{name} has exit code {code}, whose row names nothing above it"


@pytest.mark.parametrize("name", exceptions())
def test_the_command_line_ends_with_the_code_of_the_error(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = getattr(errors, name)
    error = kind.__new__(kind)
    Exception.__init__(error, "what is wrong; what to do")

    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fails)
    assert app.run(["verify", "x"]) == exceptions()[name]
    assert capsys.readouterr().err == "saqsam: what is wrong; what to do\n"
