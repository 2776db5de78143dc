"""malloc keeps what is freed: asked of a process, by the pages it has to fetch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_PROBE = """
import resource, sys, torch
from saqsam.freed_memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
x = torch.zeros(9 << 20)  # above 32 MB, where glibc stops learning by itself
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(4)))  # one round alone was once disturbed, why is not known
"""


def probe(word: str, **environment: str) -> tuple[str, int]:
    """What ``keep_freed_memory`` said, and the fewest page faults of four times five additions of 36 MB."""
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


_GIVING_BACK = """
import torch
from saqsam.freed_memory import give_back_freed_memory, keep_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
keep_freed_memory()
before = resident()
held = [torch.ones(1 << 20) for _ in range(100)]
most = resident()
del held
kept = resident()
give_back_freed_memory()
print(most - before, kept - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_given_back_when_asked() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _GIVING_BACK]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.split()
    most, kept, left = map(int, done)
    assert kept > most / 2
    assert left < most / 10


def test_what_the_environment_says_counts() -> None:
    assert probe("keep", MALLOC_ARENA_MAX="2")[0] == "False"


_SESSION_PROBE = """
import resource, sys
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from saqsam.graphs.session import open_session, run_session

if sys.argv[1] == "theirs":
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": 1 << 30}))
given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y"))
steps = ["x", "a", "b", "c", "d"]
nodes = [helper.make_node("Exp", [one], [next_]) for one, next_ in zip(steps, steps[1:])]
nodes.append(helper.make_node("ReduceSum", ["d"], ["y"], keepdims=1))
graph = helper.make_graph(nodes, "g", [given], [found])
opsets = [helper.make_opsetid("", 21)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
session = open_session(model, "probe", shared_arena=sys.argv[1] != "none")
x = {"x": np.full(9 << 20, -9.0, np.float32)}
for _ in range(2):  # the second run is the first that knows what it needs
    run_session(session, "probe", x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    (y,) = run_session(session, "probe", x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(y[0]))
"""


def faults_of_sessions(arena: str) -> tuple[int, float]:
    """Page faults of four runs over 36 MB tensors, and their result."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _SESSION_PROBE, arena]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.split()
    return int(done[0]), float(done[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults")
def test_sessions_use_their_memory_again_whoever_made_the_arena() -> None:
    pytest.importorskip("onnxruntime")
    without, expected = faults_of_sessions("none")
    for arena in ("ours", "theirs"):
        kept, found = faults_of_sessions(arena)
        assert found == expected
        assert kept < without / 4, arena
