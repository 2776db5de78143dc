"""Versions and machine, for whoever wants to repeat the figures."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Packages, Python, processor and threads, by what they are called."""
    found = {name: version(name) for name in ("saqsam", "torch", "transformers", "numpy")}
    return {
        **found,
        "python": platform.python_version(),
        "processor": _cpu(),
        "threads": str(torch.get_num_threads()),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
