"""What a page is made of, without a browser, and how wrong uses are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from saqsam.cli.app import app
from saqsam.errors import CheckpointError, UsageError
from saqsam.serve.site import folder_site
from saqsam.web.compact import AnyMachine
from saqsam.web.runtime import runtime_files
from saqsam.web.write import export_web


def test_what_no_machine_gets_wrong_is_all_that_is_signed() -> None:
    """Two products of the largest values, added up, as a kernel that saturates at 16 bits has them."""
    machine = AnyMachine()
    for code, weight in ((255, 63), (255, 64), (255, 65), (15, 128), (255, 128), (127, 128)):
        fits = 2 * code * weight <= np.iinfo(np.int16).max
        assert machine.signed(code, weight) == fits


def test_the_runtime_is_the_published_one() -> None:
    found = runtime_files()
    assert found["ort-wasm-simd-threaded.wasm"].startswith(b"\0asm")
    assert b"MIT License" in found["LICENSE"]


def test_wrong_uses_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one or two"):
        export_web([], tmp_path / "page")
    with pytest.raises(CheckpointError, match="without a page"):
        folder_site(tmp_path)
    words = ["export", "nano", "--out", str(tmp_path / "x"), "--compare", "small"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    assert list(tmp_path.iterdir()) == []
