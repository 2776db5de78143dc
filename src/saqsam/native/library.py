"""The compiled kernels: finding the library, and choosing a level of instructions; without PyTorch."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saqsam.errors import UsageError
from saqsam.native.jobs import (
    VERSION,
    AttentionJob,
    CrossJob,
    ImageJob,
    LinearJob,
    NormJob,
    UpscaleJob,
)

LEVELS = ("plain", "avx2", "avx-vnni", "avx512-vnni", "neon-dotprod", "amx")
"""By number; of those that a processor has, the last one is the fastest."""
FILE = "libsaqsam_native.so"
CAP = "SAQSAM_NATIVE_LEVEL"
"""Environment variable: the highest level to use, to try out what a smaller processor would do."""
HOW_TO_BUILD = (
    "install a C++ compiler (g++ or clang++), then install saqsam again: "
    "pip install --force-reinstall --no-deps saqsam, in a checkout pip install -e ."
)


class LibraryMissing(UsageError):
    """The kernels were not built."""


class UnknownLevel(UsageError):
    """The environment names a level that there is not."""


@functools.cache
def find_library() -> Any:
    """The library that was built with this package, or ``None``."""
    path = Path(__file__).with_name(FILE)
    try:
        handle = ctypes.CDLL(str(path))
        if handle.saqsam_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    handle.saqsam_pack_weight.restype = ctypes.c_int64
    handle.saqsam_pack_weight.argtypes = (
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    jobs = (
        ("linear", LinearJob),
        ("norm", NormJob),
        ("attention", AttentionJob),
        ("tokens_ask", CrossJob),
        ("image", ImageJob),
        ("upscale", UpscaleJob),
    )
    for name, job in jobs:
        function = getattr(handle, f"saqsam_{name}")
        function.restype, function.argtypes = None, (ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(job))
    handle.saqsam_patches.restype = None
    handle.saqsam_patches.argtypes = (
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_uint8,
        ctypes.c_void_p,
        ctypes.c_int64,
    )
    handle.saqsam_pack_matrix.restype = ctypes.c_int64
    handle.saqsam_pack_matrix.argtypes = (
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    return handle


def levels_here() -> tuple[int, ...]:
    """Levels that this build has and this processor runs, in their order; none without a library."""
    handle = find_library()
    found = 0 if handle is None else handle.saqsam_levels()
    return tuple(index for index in range(len(LEVELS)) if found >> index & 1)


def choose_level(cap: str | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The fastest level here, an index into ``LEVELS``.

    Args:
        cap: the highest level to use, a name out of ``LEVELS``; ``None`` asks the variable
            ``SAQSAM_NATIVE_LEVEL``.
        environment: where the variable is looked up.

    Raises:
        LibraryMissing: the library was not built.
        UnknownLevel: there is no such level.
    """
    cap = environment.get(CAP, "") if cap is None else cap
    if cap and cap not in LEVELS:
        raise UnknownLevel(
            f"{CAP} '{cap}': the levels are {', '.join(LEVELS)}; leave it unset for the fastest"
        )
    if not (levels := levels_here()):
        raise LibraryMissing(
            f"engine 'native': its kernels were not built; {HOW_TO_BUILD}, or take the engine onnxruntime"
        )
    most = LEVELS.index(cap) if cap else len(LEVELS)
    return max(level for level in levels if level <= most)


def describe() -> str:
    """The level that would be used, or why there is none, in a few words."""
    try:
        return LEVELS[choose_level()]
    except UsageError as error:
        return str(error)
