"""Which engine computes a model fastest on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from saqsam.drop_in.directory import packed_file
from saqsam.engines.names import NATIVE, ONNXRUNTIME, TORCH
from saqsam.native.library import LEVELS, levels_here
from saqsam.pack.file import is_packed


def fastest_engine(source: str | Path, device: str = "cpu") -> str:
    """Who is asked first: saqsam's own kernels, ONNX Runtime, or PyTorch.

    A packed file on the CPU is for integers. The kernels are taken where they were built with instructions of
    this processor; their plain level is there to be compared with. What an engine cannot compute goes on to
    the next one, see ``load_engine``.

    Args:
        source: as for ``saqsam.load``.
        device: of PyTorch.
    """
    packed = is_packed(packed_file(source) or Path(source).expanduser())
    installed = find_spec("onnx") is not None and find_spec("onnxruntime") is not None
    if not packed or not installed or device != "cpu":
        return TORCH
    return NATIVE if any(LEVELS[level] != "plain" for level in levels_here()) else ONNXRUNTIME
