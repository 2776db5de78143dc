"""The optional packages behind export and runtime."""

from __future__ import annotations

from importlib import import_module

from saqsam.errors import UsageError


def require_onnx() -> None:
    """See that ``onnx`` and ``onnxruntime`` can be imported.

    Raises:
        UsageError: one of them is not installed; the message names the extra that brings both.
    """
    for name in ("onnx", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                f"ONNX needs the package {name}, which cannot be imported ({error}); "
                "install it with: pip install 'saqsam[onnx]'"
            ) from error
