"""Opening ONNX graphs in ONNX Runtime, with errors that say which file and what to do."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from saqsam.errors import CheckpointError, first_line

_ERRORS_ONLY = 3
_AS_REQUESTED = 1
"""ONNX Runtime's number for an arena that grows by what is asked for, and not to the next power of two."""


def open_session(
    model: bytes | str | Path,
    name: str,
    settings: dict[str, str] | None = None,
    *,
    arena: bool = False,
    shared_arena: bool = False,
) -> onnxruntime.InferenceSession:
    """A session on the CPU with as many threads as PyTorch uses.

    Args:
        model: a serialised model, or the path of a file.
        name: what to call it in messages.
        settings: session configuration entries of ONNX Runtime.
        arena: keep memory from one operator to the next, and from one run to the next. Without it large
            tensors are fresh pages, which the system clears; with it the most ever needed stays allocated.
        shared_arena: keep memory likewise, in one arena for all sessions that ask for it, which grows by what
            is missing: a session's own doubles.

    Raises:
        CheckpointError: the file is damaged, or holds what this ONNX Runtime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    # ONNX Runtime's arena doubles whenever it is full and gives nothing back; attention maps are large.
    options.enable_cpu_mem_arena = arena or shared_arena
    settings = dict(settings or {})
    if shared_arena:
        _share_arena()
        settings["session.use_env_allocators"] = "1"
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    source: Any = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise CheckpointError(
            name,
            f"ONNX Runtime {onnxruntime.__version__} cannot open it ({first_line(error)})",
            "Export it again, or with a lower --opset",
        ) from error


@functools.cache
def _share_arena() -> None:
    """Make the one arena that sessions of this process can share; ONNX Runtime keeps the first."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    growth = {"arena_extend_strategy": _AS_REQUESTED, "initial_chunk_size_bytes": 1 << 20}
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(growth))


def run_session(
    session: onnxruntime.InferenceSession, name: str, inputs: dict[str, Any], outputs: list[str] | None = None
) -> list[Any]:
    """Run a session.

    Raises:
        CheckpointError: the graph does not accept these inputs, or fails on them.
    """
    try:
        found: list[Any] = session.run(outputs, inputs)
        return found
    except Exception as error:
        if not isinstance(error, ValueError) and not type(error).__module__.startswith("onnxruntime"):
            raise
        raise CheckpointError(
            name, f"it does not run ({first_line(error)})", "Was it made from another model?"
        ) from error
