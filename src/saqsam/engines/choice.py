"""Which engine computes packed files fastest on this machine."""

from __future__ import annotations

from saqsam.engines.names import NATIVE, ONNXRUNTIME, TORCH
from saqsam.extras import has_onnx
from saqsam.native.library import LEVELS, levels_here


def fastest_engine(device: str = "cpu") -> str:
    """Who is asked first: saqsam's own kernels, ONNX Runtime, or PyTorch.

    The kernels are taken where they were built with instructions of this processor; their plain level is
    there to be compared with. What an engine cannot compute goes on to the next one, see ``load_engine``.

    Args:
        device: of PyTorch; on any but the CPU it is PyTorch.
    """
    if device != "cpu":
        return TORCH
    if any(LEVELS[level] != "plain" for level in levels_here()):
        return NATIVE
    return ONNXRUNTIME if has_onnx() else TORCH
