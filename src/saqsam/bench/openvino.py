"""Graphs in OpenVINO, where it is installed, with the calls of ONNX Runtime's sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from saqsam.errors import UsageError

PACKAGE = "openvino"


def openvino_problem() -> str:
    """Why there is no OpenVINO here; empty if there is."""
    return "" if find_spec(PACKAGE) else f"OpenVINO is not installed; pip install {PACKAGE}"


@dataclass(frozen=True)
class Named:
    """An input or an output of a graph."""

    name: str


class OpenVinoSession:
    """A graph on the CPU with as many threads as PyTorch uses.

    Args:
        model: a serialised ONNX graph.

    Raises:
        UsageError: OpenVINO is not installed.
    """

    def __init__(self, model: bytes) -> None:
        if problem := openvino_problem():
            raise UsageError(problem)
        core = import_module(PACKAGE).Core()
        settings = {
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            # On some processors OpenVINO takes float32 for a wish and computes in bfloat16.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._compiled: Any = core.compile_model(core.read_model(model), "CPU", settings)

    def get_inputs(self) -> list[Named]:
        """Those of the graph, in its order."""
        return [Named(one.get_any_name()) for one in self._compiled.inputs]

    def get_outputs(self) -> list[Named]:
        """Those of the graph, in its order."""
        return [Named(one.get_any_name()) for one in self._compiled.outputs]

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """As of ONNX Runtime's session."""
        found = self._compiled(dict(inputs))
        names = [one.name for one in self.get_outputs()] if outputs is None else outputs
        return [found[name].copy() for name in names]
