"""Encoder and decoder on the kernels, with the calls of ``SamModel``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saqsam.families.record import Config
from saqsam.graphs.model import Embeddings, OnnxSam
from saqsam.native.decoder import NativeDecoder
from saqsam.native.families import ImageEncoder, encoded
from saqsam.native.image import ImageSide

if TYPE_CHECKING:
    from saqsam.graphs.graph import Array

_NOTHING: Mapping[str, Array] = MappingProxyType({})


class NativeSam(OnnxSam):
    """All of it on the kernels.

    Args:
        config: the model's configuration.
        encoder, decoder: its parts.
        name: what to call the model in messages.
    """

    prompts_at_once = 32
    """Given together; how many are computed together is the decoder's business."""

    def __init__(self, config: Config, encoder: ImageEncoder, decoder: NativeDecoder, name: str) -> None:
        super().__init__(config, None, None, name)
        self.native, self.native_decoder = encoder, decoder
        self._latest: tuple[Tensor, ImageSide] | None = None

    def _encoded(self, pixel_values: Tensor) -> Embeddings:
        return Embeddings(encoded(self.native, pixel_values).main)

    @torch.no_grad()
    def decode(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
        beside: Mapping[str, Array] = _NOTHING,
    ) -> tuple[Tensor, ...]:
        """As of ``OnnxSam``."""
        del beside
        decoder = self.native_decoder
        tokens = decoder.prompts.tokens(coords.float(), labels.float())
        every = 1 + self.config.mask_decoder_config.num_multimask_outputs
        chosen = list(range(every))[kept]
        if mask is None:
            groups = [(self._shared(embedding), tokens)]
        else:
            dense = decoder.prompts.dense(mask)
            owned = tokens.split(1 if len(dense) > 1 else len(tokens))
            groups = [
                (decoder.image_side(embedding, one[None]), some)
                for one, some in zip(dense, owned, strict=True)
            ]
        found = [decoder.decode(side, some, chosen) for side, some in groups]
        logits, scores = (torch.cat(same) if len(same) > 1 else same[0] for same in zip(*found, strict=True))
        return logits, scores[:, kept]

    def _shared(self, embedding: Tensor) -> ImageSide:
        """The image side without a mask, kept for the latest image: embeddings are compared by value."""
        latest = self._latest
        if latest is None or not torch.equal(latest[0], embedding):
            side = self.native_decoder.image_side(embedding, self.native_decoder.prompts.dense(None))
            latest = self._latest = (embedding.clone(), side)
        return latest[1]
