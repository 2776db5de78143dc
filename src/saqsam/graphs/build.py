"""From a packed model to its two ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from saqsam.errors import UsageError
from saqsam.pack.file import PackedModel

if TYPE_CHECKING:
    from onnx import ModelProto

    from saqsam.graphs.graph import Graph
    from saqsam.graphs.portable import Portable
    from saqsam.graphs.source import Source

OPSETS = (21, 22, 23)
"""Operator sets that are written: 21 is the first with 4-bit integers."""


def build_graphs(
    packed: PackedModel,
    opset: int,
    arithmetic: Callable[[Graph, Source], Portable],
    *,
    full_size: bool = True,
) -> tuple[ModelProto, ModelProto]:
    """The image encoder and the prompt-and-mask decoder of a packed model.

    Args:
        packed: verified contents of a packed file.
        opset: one of ``OPSETS``.
        arithmetic: how quantized products are written down.
        full_size: whether the decoder also enlarges masks to the size of the image.

    Raises:
        UsageError: the opset, or a part of the model, is not supported.
    """
    from saqsam.graphs.graph import Graph
    from saqsam.graphs.writers import writers_of

    if opset not in OPSETS:
        raise UsageError(f"opset {opset}: graphs are written in opset {', '.join(map(str, OPSETS))}")
    writers = writers_of(packed)
    source, encoder = writers.source(packed), Graph("encoder", opset)
    writers.encoder(encoder, source, arithmetic(encoder, source))
    return encoder.model(_metadata(source)), build_decoder(source, opset, arithmetic, full_size=full_size)


def build_decoder(
    source: Source, opset: int, arithmetic: Callable[[Graph, Source], Portable], *, full_size: bool = True
) -> ModelProto:
    """The prompt-and-mask decoder alone; arguments as of ``build_graphs``."""
    from saqsam.graphs.graph import Graph
    from saqsam.graphs.writers import writers_of

    decoder = Graph("decoder", opset)
    writers_of(source.packed).decoder(decoder, source, arithmetic(decoder, source), full_size=full_size)
    return decoder.model(_metadata(source))


def _metadata(source: Source) -> dict[str, str]:
    return {
        "recipe": str(source.packed.recipe.get("name", "")),
        "image_size": str(source.image_size),
        "weights": "integers of the packed model; 2 to 4 bits as UINT4, 5 to 8 bits as UINT8",
    }
