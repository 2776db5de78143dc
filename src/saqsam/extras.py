"""Packages that saqsam uses if they are installed, and the extra that brings each."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from saqsam.errors import UsageError

_ONNX = ("onnx", "onnxruntime")


def require(user: str, extra: str, *packages: str) -> None:
    """See that packages can be imported.

    Args:
        user: what needs them, as it stands at the beginning of a message.
        extra: brings all of them.
        packages: names to import.

    Raises:
        UsageError: one of them is not installed; the message names it and the extra.
    """
    for name in packages:
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                f"{user} needs the package {name}, which cannot be imported ({error}); "
                f"install it with: pip install 'saqsam[{extra}]'"
            ) from error


def require_onnx() -> None:
    """``onnx`` and ``onnxruntime``, behind export and engines; see ``require``."""
    require("ONNX", "onnx", *_ONNX)


def has_onnx() -> bool:
    """Whether what ``require_onnx`` asks for is installed; nothing is imported."""
    return all(find_spec(name) is not None for name in _ONNX)


def require_report() -> None:
    """``jinja2`` and ``matplotlib``, behind the page; see ``require``."""
    require("--html", "report", "jinja2", "matplotlib")


def require_ray() -> None:
    """``ray``, behind many processes; see ``require``."""
    require("--on ray", "ray", "ray", "ray.data")


def require_parquet() -> None:
    """``pyarrow``, behind shards in Parquet; see ``require``."""
    require("--shards parquet", "ray", "pyarrow", "pyarrow.parquet")
