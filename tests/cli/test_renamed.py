"""Old names of options answer for one release, with a note."""

from __future__ import annotations

import pytest

from saqsam.cli.app import run
from saqsam.cli.renamed import with_present_names


@pytest.mark.parametrize(
    ("given", "present"),
    [
        ("segment m a.png --runtime int8", "segment m a.png --engine int8"),
        ("segment m a.png --runtime=int8", "segment m a.png --engine=int8"),
        ("evaluate m --engine ray --workers 2", "evaluate m --on ray --workers 2"),
        ("evaluate m --engine=local", "evaluate m --on=local"),
    ],
)
def test_old_names_are_replaced(given: str, present: str) -> None:
    words, notes = with_present_names(given.split())
    assert words == present.split()
    assert len(notes) == 1


def test_present_names_pass_without_a_note() -> None:
    words = ["evaluate", "m", "--engine", "onnxruntime", "--on", "ray", "--", "--runtime"]
    assert with_present_names(words) == (words, [])


def test_a_command_with_an_old_name_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["segment", "nano", "nowhere.png", "--point", "9,9", "--runtime", "tensorrt"]) == 2
    note, error = capfd.readouterr().err.splitlines()
    assert note.startswith("note: --runtime tensorrt is --engine tensorrt now")
    assert "--engine tensorrt: expected auto, torch" in error
