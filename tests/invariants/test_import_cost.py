"""Importing saqsam costs next to nothing, and nothing of it touches a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import saqsam


def in_a_fresh_python(code: str) -> Any:
    """The JSON that ``code`` prints last, in an interpreter that has imported nothing."""
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:saqsam", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_saqsam_and_its_command_line_is_cheap() -> None:
    found = in_a_fresh_python(
        "import json, sys, time\n"
        "start = time.process_time()\n"
        "import saqsam\n"
        "seconds = time.process_time() - start\n"
        "heavy = lambda: [n for n in ('torch', 'transformers', 'numpy', 'scipy') if n in sys.modules]\n"
        "package = heavy()\n"
        "import saqsam.cli.app\n"
        "print(json.dumps([seconds, package, heavy()]))\n"
    )
    seconds, package, command_line = found
    assert seconds < 0.3  # processor time, so that a busy machine does not count
    assert package == []
    assert command_line == []  # --help and wrong usage answer at once


def test_loading_and_segmenting_touch_no_gpu() -> None:
    found = in_a_fresh_python(
        "import json, numpy, torch, saqsam\n"
        "image = numpy.zeros((40, 50, 3), numpy.uint8)\n"
        "saqsam.load('nano').segment(image, boxes=[[1, 2, 30, 35]])\n"
        "print(json.dumps(torch.cuda.is_initialized()))\n"
    )
    assert found is False


def test_every_public_name_can_be_had() -> None:
    for name in saqsam.__all__:
        assert getattr(saqsam, name) is not None
    assert set(saqsam.__all__) <= set(dir(saqsam))
    assert not hasattr(saqsam, "load_everything")
