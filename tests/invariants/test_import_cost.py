"""Importing saqsam costs next to nothing, and nothing of it touches a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


def test_a_packed_model_needs_no_models_of_transformers_and_nothing_touches_a_gpu(
    packed_nano: Callable[[str], Path],
) -> None:
    found = in_a_fresh_python(
        "import json, numpy, sys, torch, saqsam\n"
        "image, boxes = numpy.zeros((40, 50, 3), numpy.uint8), [[1, 2, 30, 35]]\n"
        "names = 'transformers.modeling_utils', 'torch._dynamo', 'onnx', 'onnxruntime'\n"
        "heavy = lambda: [name for name in names if name in sys.modules]\n"
        f"packed = saqsam.load({str(packed_nano('rtn-w8a8'))!r}, engine='native')\n"
        "packed.segment(image, boxes=boxes)\n"
        "imported = heavy() if packed.engine == 'native' else []\n"
        "saqsam.load('nano').segment(image, boxes=boxes)\n"
        "print(json.dumps([imported, heavy(), torch.cuda.is_initialized()]))\n"
    )
    imported, by_a_float_model, gpu = found
    assert imported == []  # they take longer to import than all else up to the first mask
    assert "transformers.modeling_utils" in by_a_float_model  # or the line above would say nothing
    assert gpu is False


def test_every_public_name_can_be_had() -> None:
    for name in saqsam.__all__:
        assert getattr(saqsam, name) is not None
    assert set(saqsam.__all__) <= set(dir(saqsam))
    assert not hasattr(saqsam, "load_everything")
