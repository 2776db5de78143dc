"""A small builder of ONNX graphs: every method adds one thing and returns its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from saqsam import __version__

Array = npt.NDArray[Any]
IR_VERSION = 10
"""The intermediate representation of opset 21; later opsets used here are read with it as well."""

_SHARED_BYTES = 1 << 16
"""Constants up to this size are stored once, however often they are used."""


class Graph:
    """An ONNX graph while it is being written down.

    Args:
        name: of the graph.
        opset: version of the standard operators, at least 21.
    """

    def __init__(self, name: str, opset: int) -> None:
        self.name, self.opset = name, opset
        self.scope = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._domains: set[str] = set()
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        """Declare an input; text in ``shape`` names a dimension that may vary."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str] | None, kind: int = 1) -> None:
        """Declare ``value`` as the output called ``name``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}/Identity"))
        self._outputs.append(
            helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))
        )

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; an empty input name leaves out an optional input."""
        return self.add_many(op, inputs, 1, domain=domain, **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        name = self._fresh(op)
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attributes))
        self._domains.add(domain)
        return names

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A constant tensor; small ones that are equal are stored once."""
        array = np.array(values, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes() if array.nbytes <= _SHARED_BYTES else b"")
        if key[2] and key in self._shared:
            return self._shared[key]
        name = self._fresh("constant")
        self._initializers.append(numpy_helper.from_array(array, name))
        if key[2]:
            self._shared[key] = name
        return name

    def integers(self, codes: npt.NDArray[np.uint8], bits: int) -> str:
        """A constant of unsigned codes in the smallest type that ONNX has for them: UINT4 or UINT8."""
        if bits > 4:
            return self.constant(codes, np.uint8)
        name = self._fresh("codes")
        flat = np.append(codes.reshape(-1), np.zeros(codes.size % 2, np.uint8))
        packed = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)  # the first code in the low half
        self._initializers.append(
            helper.make_tensor(name, TensorProto.UINT4, list(codes.shape), packed.tobytes(), raw=True)
        )
        return name

    def shape(self, *sides: int) -> str:
        """A constant shape for ``Reshape`` and its like."""
        return self.constant(sides, np.int64)

    def reshape(self, x: str, *sides: int) -> str:
        """``Reshape``; -1 stands for the one side that follows from the others."""
        return self.add("Reshape", x, self.shape(*sides))

    def transpose(self, x: str, *order: int) -> str:
        """``Transpose``: side i of the result is side ``order[i]`` of ``x``."""
        return self.add("Transpose", x, perm=list(order))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        """``x[start:end]`` along one axis."""
        return self.add("Slice", x, self.shape(start), self.shape(end), self.shape(axis))

    def split(self, x: str, axis: int, parts: int) -> list[str]:
        """Equal parts of ``x`` along one axis."""
        return self.add_many("Split", [x], parts, axis=axis, num_outputs=parts) if parts > 1 else [x]

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The finished model.

        Args:
            metadata: written into the file, for whoever looks into it.
        """
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._initializers)
        versions = [helper.make_opsetid("", self.opset)]
        versions += [helper.make_opsetid(domain, 1) for domain in sorted(self._domains - {""})]
        model = helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "saqsam", __version__
        helper.set_model_props(model, metadata)
        return model

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{self.scope}/{what}_{self._count}"
