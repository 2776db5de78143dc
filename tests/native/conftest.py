"""Levels of the kernels to test: all that this processor has; without the library these tests skip."""

from __future__ import annotations

import pytest

from saqsam.native.kernels import Kernels
from saqsam.native.library import LEVELS, find_library, levels_here


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """One level after the other."""
    level = LEVELS.index(request.param)
    if level not in levels_here():
        pytest.skip(f"{request.param} is not on this processor, or the library was not built")
    return Kernels(find_library(), level)
