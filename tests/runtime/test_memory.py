"""malloc keeps what is freed: asked of a process, by the pages it has to fetch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_PROBE = """
import resource, sys, torch
from saqsam.runtime.memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
x = torch.zeros(16 << 20)  # above 32 MB, where glibc stops learning by itself
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def probe(word: str, **environment: str) -> tuple[str, int]:
    """What ``keep_freed_memory`` said, and page faults of five additions of 64 MB."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _PROBE, word]
    done = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return done[0], int(done[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again() -> None:
    said, kept = probe("keep")
    assert said == "True"
    assert kept < probe("leave")[1] / 2


def test_what_the_environment_says_counts() -> None:
    assert probe("keep", MALLOC_ARENA_MAX="2")[0] == "False"
