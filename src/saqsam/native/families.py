"""Of each family, what computes its image encoder on the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Family
from saqsam.families.sam import SAM
from saqsam.families.sam2 import SAM2
from saqsam.families.sam3 import SAM3
from saqsam.families.sam_hq import SAM_HQ
from saqsam.graphs.sam2_source import Sam2Source
from saqsam.graphs.sam3_source import Sam3Source
from saqsam.graphs.source import Source
from saqsam.native.encoder import NativeEncoder
from saqsam.native.kernels import Kernels
from saqsam.native.sam2_encoder import NativeSam2Encoder
from saqsam.native.sam3_encoder import NativeSam3Encoder
from saqsam.native.supported import sam2_problems, sam3_problems, sam_problems
from saqsam.pack.file import PackedModel


class ImageEncoder(Protocol):
    """An image encoder on the kernels."""

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``(1, 3, S, S)`` float32 to the tensors of an :class:`saqsam.families.embedding.Embedding`."""


@dataclass(frozen=True)
class OnKernels:
    """Of one family.

    Attributes:
        source: what its parts are built from.
        problems: why they cannot be, part by part; empty where they can.
        encoder: builds the image encoder.
    """

    source: Callable[[PackedModel], Source]
    problems: Callable[[Any], Iterator[str]]
    encoder: Callable[[Any, Kernels], ImageEncoder]


_SAM = OnKernels(Source, sam_problems, NativeEncoder)
_ON_KERNELS: dict[str, OnKernels] = {
    SAM.name: _SAM,
    SAM_HQ.name: _SAM,
    SAM2.name: OnKernels(Sam2Source, sam2_problems, NativeSam2Encoder),
    SAM3.name: OnKernels(Sam3Source, sam3_problems, NativeSam3Encoder),
}


def on_kernels(family: Family) -> OnKernels | None:
    """What computes a family's encoder; ``None`` of a family that nobody described here."""
    return _ON_KERNELS.get(family.name)


def encoded(encoder: ImageEncoder, pixel_values: Tensor) -> Embedding:
    """``(B, 3, S, S)`` to embeddings, one image after the other."""
    return Embedding.cat([Embedding.of(encoder.encode(one)) for one in pixel_values.float().split(1)])


def features_of(encoder: ImageEncoder, pixel_values: Tensor) -> list[Tensor]:
    """``(B, 3, S, S)`` to features as ``Sam2Model.get_image_embeddings`` gives them, the main ones last."""
    found = encoded(encoder, pixel_values)
    return [*found.features, found.main]
