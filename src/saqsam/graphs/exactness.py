"""Which integer products are exact on this machine: asked of the machine, not of a list of processors.

Without the VNNI instructions, x86 kernels add two products of an unsigned and a signed byte in 16 bits and
saturate silently: 8-bit weights are then wrong, 4-bit ones are not. Products of two unsigned bytes are always
exact, and slower.
"""

from __future__ import annotations

import numpy as np

from saqsam.graphs.graph import Graph
from saqsam.graphs.session import open_session, run_session

_INT8, _UINT8, _INT32 = 3, 2, 6
_ROWS = (1, 5, 32)
_INNER, _COLUMNS = 192, 64


class Exactness:
    """Answers, each question once, whether unsigned times signed bytes give exact sums."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}

    def signed(self, largest_code: int, largest_weight: int) -> bool:
        """Whether codes ``0 .. largest_code`` times int8 of size up to ``largest_weight`` are exact."""
        if largest_weight > 128:
            return False
        question = (largest_code, largest_weight)
        if question not in self._known:
            self._known[question] = signed_is_exact(*question)
        return self._known[question]

    def describe(self) -> str:
        """What was asked and answered, for a log."""
        answers = (
            f"codes to {code} by integers to {weight}: {'int8' if exact else 'uint8, as int8 saturates'}"
            for (code, weight), exact in sorted(self._known.items())
        )
        return "; ".join(answers) or "no integer products"


def signed_is_exact(largest_code: int, largest_weight: int) -> bool:
    """Multiply matrices of extreme values with ONNX Runtime and compare with 64-bit integers.

    Args:
        largest_code: of the uint8 operand.
        largest_weight: size of the largest int8 operand, at most 128.
    """
    graph = Graph("probe", 21)
    codes = graph.input("codes", ("rows", _INNER), _UINT8)
    generator = np.random.default_rng(0)
    low, high = -largest_weight, min(largest_weight, 127)
    weight = np.concatenate(
        [
            np.full((_INNER, 8), low),
            np.full((_INNER, 8), high),
            generator.choice([low, high], (_INNER, _COLUMNS - 16)),
        ],
        axis=1,
    )
    graph.output(
        "sums", graph.add("MatMulInteger", codes, graph.constant(weight, np.int8)), None, kind=_INT32
    )
    session = open_session(graph.model({}).SerializeToString(), "probe")
    for rows in _ROWS:
        given = np.full((rows, _INNER), largest_code, np.uint8)
        given[rows // 2 :: 3] = generator.integers(0, largest_code + 1, given[rows // 2 :: 3].shape)
        found = run_session(session, "probe", {"codes": given})[0]
        if not np.array_equal(found, given.astype(np.int64) @ weight.astype(np.int64)):
            return False
    return True
