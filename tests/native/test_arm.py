"""The kernels for 64-bit ARM, compiled here and emulated; and what is chosen on such a processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from saqsam.engines import choice
from saqsam.native import library
from saqsam.native.library import CAP, LEVELS, choose_level

CHECK = Path(__file__).parents[2] / "tools" / "check_arm.sh"
MISSING = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
def test_an_emulated_processor_gives_what_plain_c_gives() -> None:
    """As of 64-bit integers; without dot products the plain level is all that is offered."""
    done = subprocess.run(["bash", str(CHECK), "20"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    both = 1 | 1 << LEVELS.index("neon-dotprod")
    assert done.stdout.splitlines() == [
        f"max: levels {both}: all the same",
        "cortex-a53: levels 1: all the same",
    ]


def test_native_is_chosen_where_there_are_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CAP, raising=False)
    neon = LEVELS.index("neon-dotprod")
    for found, engine in (((0, neon), "native"), ((0,), "onnxruntime")):
        monkeypatch.setattr(library, "levels_here", lambda found=found: found)
        monkeypatch.setattr(choice, "levels_here", lambda found=found: found)
        assert choice.fastest_engine() == engine
        assert LEVELS[choose_level(environment={})] == LEVELS[found[-1]] == library.describe()
        assert choose_level(environment={CAP: "plain"}) == 0
