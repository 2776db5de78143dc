"""Integer products for a machine that nobody has asked: small in the file, exact wherever it runs.

A page is opened on processors that the exporter never sees. Unsigned times signed bytes are therefore used
only where no sum of two products can leave 16 bits, the place where kernels may saturate; all else is
multiplied unsigned. Weights of up to 4 bits lie in the file as UINT4 and are widened when the session is
created, so that a download is half as long.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from saqsam.graphs.exactness import Exactness
from saqsam.graphs.graph import Graph
from saqsam.graphs.integer import Integer
from saqsam.graphs.source import Source
from saqsam.grids.affine import Affine
from saqsam.pack.file import PackedWeight

_LARGEST_INT16 = 2**15 - 1
_UINT4_BITS = 4
_INT8, _UINT8 = 3, 2


class AnyMachine(Exactness):
    """Answers from arithmetic alone, without asking the machine at hand."""

    def signed(self, largest_code: int, largest_weight: int) -> bool:
        """Whether two products fit into 16 bits, so that not even a kernel that saturates can."""
        return largest_weight <= 128 and 2 * largest_code * largest_weight <= _LARGEST_INT16


class Compact(Integer):
    """As ``Integer``, exact on any machine, with weights of up to 4 bits stored in 4.

    Args:
        graph: where nodes go.
        source: integers, scales and zero points.
    """

    largest_piece: ClassVar[int | None] = None
    """Whole maps: more nodes take the page longer to open than pieces save."""

    def __init__(self, graph: Graph, source: Source) -> None:
        super().__init__(graph, source, AnyMachine())

    def _weight(self, codes: npt.NDArray[np.uint8], packed: PackedWeight, grid: Affine) -> tuple[str, str]:
        if packed.bits > _UINT4_BITS:
            return super()._weight(codes, packed, grid)
        signed = self.exactness.signed(2**grid.bits - 1, 2**packed.bits - 1)
        kind, dtype = (_INT8, np.int8) if signed else (_UINT8, np.uint8)
        widened = self.graph.add("Cast", self.graph.integers(codes, packed.bits), to=kind)
        return widened, self.graph.constant(packed.zero_point.numpy().astype(dtype), dtype)
