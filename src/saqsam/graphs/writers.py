"""Who writes the graphs of a family, and who runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from saqsam.families.record import Family
from saqsam.families.sam import SAM
from saqsam.families.sam2 import SAM2
from saqsam.families.sam3 import SAM3
from saqsam.families.sam_hq import SAM_HQ
from saqsam.graphs.decoder import decoder_graph
from saqsam.graphs.decoder_model import SharedOnnxSam
from saqsam.graphs.encoder import EncoderWriter, encoder_graph
from saqsam.graphs.graph import Graph
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.packed_family import packed_family
from saqsam.graphs.portable import Portable
from saqsam.graphs.sam2_decoder import sam2_decoder_graph
from saqsam.graphs.sam2_encoder import Sam2EncoderWriter, sam2_encoder_graph
from saqsam.graphs.sam2_model import OnnxSam2
from saqsam.graphs.sam2_shared_model import SharedOnnxSam2
from saqsam.graphs.sam2_source import Sam2Source
from saqsam.graphs.sam3_encoder import Sam3EncoderWriter, sam3_encoder_graph
from saqsam.graphs.sam3_source import Sam3Source
from saqsam.graphs.source import Source
from saqsam.pack.file import PackedModel


class EncoderSteps(Protocol):
    """An encoder's parts, each written into a graph when it is called."""

    def block(self, x: str, index: int) -> str:
        """One block on tokens ``(B, H, W, C)``."""

    def finish(self, state: Sequence[str]) -> None:
        """All that follows the last block, of a state as of :class:`saqsam.families.record.Encoder`."""


@dataclass(frozen=True)
class Writers:
    """Of one family.

    Attributes:
        source: what its graphs are built from.
        encoder, decoder: write the two graphs.
        steps: writes the encoder's parts one by one.
        model, shared_model: run two sessions; the second with the image's share of decoding done once.
    """

    source: Callable[[PackedModel], Source]
    encoder: Callable[[Graph, Any, Portable], None]
    decoder: Callable[..., None]
    steps: Callable[[Graph, Any, Portable], EncoderSteps]
    model: type[OnnxSam]
    shared_model: type[SharedOnnxSam]


_SAM = Writers(Source, encoder_graph, decoder_graph, EncoderWriter, OnnxSam, SharedOnnxSam)
_SAM2 = Writers(
    Sam2Source, sam2_encoder_graph, sam2_decoder_graph, Sam2EncoderWriter, OnnxSam2, SharedOnnxSam2
)
_SAM3 = replace(_SAM2, source=Sam3Source, encoder=sam3_encoder_graph, steps=Sam3EncoderWriter)
_WRITERS: Mapping[str, Writers] = {SAM.name: _SAM, SAM_HQ.name: _SAM, SAM2.name: _SAM2, SAM3.name: _SAM3}


def writers_of(packed: PackedModel) -> Writers:
    """The writers of a packed model's family."""
    return writers_for(packed_family(packed))


def writers_for(family: Family) -> Writers:
    """The writers of a family."""
    return _WRITERS[family.name]
