"""The ways of running one packed model that a benchmark compares, each with the calls of ``SamModel``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from saqsam.bench.openvino import OpenVinoSession, openvino_problem
from saqsam.engines.int8 import convert
from saqsam.engines.load import integer_model, native_model, native_parts, sessions_model
from saqsam.errors import UsageError
from saqsam.families.registry import family_of_config
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.graphs.portable import Portable
from saqsam.graphs.session import open_session
from saqsam.graphs.writers import writers_of
from saqsam.pack.convert import from_packed
from saqsam.pack.file import PackedModel, read_packed
from saqsam.pack.fit import lay_out, packed_config


def torch_float(packed: PackedModel, path: Path) -> Any:
    """The same weights as float32, fused attention, no quantizer: PyTorch on a SAM of this size."""
    config: Any = packed_config(packed, path)
    config._attn_implementation = "sdpa"
    config.vision_config._attn_implementation = "sdpa"
    family = family_of_config(config)
    model = family.modules().model_class(config).eval().requires_grad_(False)
    state = packed.float_state()
    state |= {twin: state[stored] for stored, twin in family.tied}
    model.load_state_dict(state)
    model.tie_weights()
    return model


def simulated(packed: PackedModel, path: Path) -> Any:
    """The audited model: integers simulated in floating point."""
    return from_packed(packed, path)[0]


def linear_int8(packed: PackedModel, path: Path) -> Any:
    """The simulation with linear layers in int8."""
    model = from_packed(packed, path)[0]
    convert(model)
    return model


def integer(packed: PackedModel, path: Path) -> Any:
    """saqsam's engine."""
    return integer_model(packed, packed_config(packed, path), str(path))


def native(packed: PackedModel, path: Path) -> Any:
    """saqsam's own kernels; the level is capped by ``SAQSAM_NATIVE_LEVEL``."""
    return native_model(packed, packed_config(packed, path), str(path))


def onnxruntime_float(packed: PackedModel, path: Path) -> Any:
    """The same weights as float32 in ONNX Runtime, in saqsam's graphs."""
    return sessions_model(float_contents(packed), packed_config(packed, path), str(path), Portable)


def onnxruntime_dynamic(packed: PackedModel, path: Path) -> Any:
    """ONNX Runtime's own dynamic quantization of these graphs: 8 bits, per channel, linear layers only."""
    from tempfile import TemporaryDirectory

    from onnxruntime.quantization import QuantType, quantize_dynamic

    sessions = []
    with TemporaryDirectory() as directory:
        for graph in build_graphs(float_contents(packed), OPSETS[0], Portable, full_size=False):
            file = Path(directory) / "dynamic.onnx"
            quantize_dynamic(
                graph,
                file,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            sessions.append(open_session(file, str(path), shared_arena=True))
    return writers_of(packed).model(packed_config(packed, path), sessions[0], sessions[1], str(path))


def openvino_float(packed: PackedModel, path: Path) -> Any:
    """The same weights as float32 in OpenVINO, in saqsam's graphs."""
    return _in_openvino(float_contents(packed), path)


def openvino_int8(packed: PackedModel, path: Path) -> Any:
    """The exported graphs; OpenVINO makes integers of QuantizeLinear and DequantizeLinear where it can."""
    return _in_openvino(packed, path)


def _in_openvino(packed: PackedModel, path: Path) -> Any:
    graphs = build_graphs(packed, OPSETS[0], Portable, full_size=False)
    encoder, decoder = (OpenVinoSession(graph.SerializeToString()) for graph in graphs)
    return writers_of(packed).model(packed_config(packed, path), encoder, decoder, str(path))


ROWS: dict[str, Callable[[PackedModel, Path], Any]] = {
    "torch float": torch_float,
    "simulated": simulated,
    "integer": integer,
    "native": native,
    "linear int8": linear_int8,
    "onnxruntime float": onnxruntime_float,
    "onnxruntime dynamic int8": onnxruntime_dynamic,
    "openvino float": openvino_float,
    "openvino int8": openvino_int8,
}
"""Builders by the name of their row."""


_OPENVINO = ("openvino float", "openvino int8")
_ON_GRIDS = ("integer", "openvino int8")
_GRAPHS = (*_ON_GRIDS, "onnxruntime float", "onnxruntime dynamic int8", "openvino float")


def row_problem(row: str, packed: PackedModel, path: Path) -> str:
    """Why a row cannot compute a model, empty if it can; asked without building it.

    Raises:
        CorruptCheckpoint: the packed file is damaged.
    """
    packed = replace(packed, config=packed_config(packed, path).to_dict())
    try:
        if row == "native":
            native_parts(packed)
        elif row in _OPENVINO and (problem := openvino_problem()):
            return problem
        elif row in _GRAPHS:
            contents = packed if row in _ON_GRIDS else float_contents(packed)
            writers_of(contents).source(contents)
    except UsageError as reason:
        return str(reason)
    return ""


def build_row(row: str, path: Path) -> Any:
    """A model to run.

    Raises:
        UsageError: there is no row of this name.
    """
    if row not in ROWS:
        raise UsageError(f"row '{row}': the rows are {', '.join(ROWS)}")
    packed = read_packed(path)
    return ROWS[row](replace(packed, config=lay_out(packed, path).config.to_dict()), path)


def float_contents(packed: PackedModel) -> PackedModel:
    """The same model with its weights as float32 and nothing quantized."""
    return PackedModel(packed.config, {}, {}, {}, packed.float_state(), {})
