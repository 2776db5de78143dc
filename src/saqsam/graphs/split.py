"""One graph as two: what depends on some of its inputs only, and the rest.

Many prompts are asked about one image. What the decoder computes from the image alone is cut off into a graph
of its own, so that it runs once for an image. The operators are the same ones, so are the results.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import onnx
from onnx import helper

Kinds = Callable[[onnx.ModelProto], dict[str, int]]


def split_graph(
    model: onnx.ModelProto, early: Collection[str], kinds: Kinds
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Cut a graph without subgraphs in two.

    Args:
        model: nodes in topological order.
        early: names of inputs.
        kinds: element types of a model's outputs by name; asked of an engine, since the standard's own
            inference does not know operators of other domains.

    Returns:
        First the graph of everything that depends on inputs in ``early`` and on no other; its outputs are
        what the rest needs of it. Then the rest, which takes these as inputs after its own.
    """
    graph = model.graph
    needs: dict[str, frozenset[str]] = {one.name: frozenset([one.name]) for one in graph.input}
    first: list[onnx.NodeProto] = []
    second: list[onnx.NodeProto] = []
    for node in graph.node:
        need = frozenset().union(*(needs.get(name, frozenset()) for name in node.input))
        needs.update(dict.fromkeys(node.output, need))
        if not need:  # constants, such as widened float16: in both, where used
            first.append(node)
            second.append(node)
        else:
            (first if need <= set(early) else second).append(node)
    made = {name for node in first for name in node.output if needs[name]}
    results = {one.name for one in graph.output}
    used = {name for node in second for name in node.input} | results
    cut = [name for node in first for name in node.output if name in made and name in used]
    begin = _part(model, first, [one for one in graph.input if one.name in early], _untyped(cut))
    types = kinds(begin)
    given = [helper.make_tensor_value_info(name, types[name], None) for name in cut]
    own = [one for one in graph.input if one.name not in early]
    return begin, _part(model, second, own + given, list(graph.output))


def _untyped(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=name) for name in names]


def _part(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Those of ``nodes`` that lead to ``outputs``, as a model."""
    needed = {one.name for one in outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    constants = [one for one in model.graph.initializer if one.name in needed]
    graph = helper.make_graph(kept[::-1], model.graph.name, inputs, outputs, constants)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    part.producer_name, part.producer_version = model.producer_name, model.producer_version
    return part
