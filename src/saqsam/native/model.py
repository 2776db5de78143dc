"""Encoder and decoder on the kernels, with the calls of ``SamModel``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saqsam.errors import ImageError
from saqsam.families.embedding import Embedding
from saqsam.families.record import Config
from saqsam.families.registry import sizes_of
from saqsam.graphs.model import Embeddings, OnnxSam
from saqsam.native.decoder import NativeDecoder
from saqsam.native.families import ImageEncoder, encoded
from saqsam.native.image import ImageSide
from saqsam.native.masks import FinerLevels

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
        self._latest: tuple[Embedding, ImageSide, FinerLevels | None] | None = None

    def _encoded(self, pixel_values: Tensor) -> Embeddings:
        return Embeddings(encoded(self.native, pixel_values).main)

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
        finer = (torch.from_numpy(beside[name]) for name in self.image_names[1:] if name in beside)
        with torch.no_grad():
            return self.answers_of(Embedding(embedding, tuple(finer)), coords, labels, mask, kept)

    def answers_of(
        self, image: Embedding, coords: Tensor, labels: Tensor, mask: Tensor | None, kept: slice
    ) -> tuple[Tensor, ...]:
        """Logits ``(P, M, 4g, 4g)``, predicted IoU ``(P, M)`` and what else the decoder says; arguments as of
        ``decode``, the image's embedding whole.

        Raises:
            ImageError: an embedding of another shape than this model's, which the kernels would read beyond.
        """
        expected, found = sizes_of(self).embedding, tuple(tuple(x.shape[1:]) for x in image.tensors)
        if len(image) != 1 or found != expected:
            raise ImageError("embedding", f"expected one image's, {expected}, got {found} of {len(image)}")
        decoder = self.native_decoder
        tokens = decoder.prompts.tokens(coords.float(), labels.float())
        every = 1 + self.config.mask_decoder_config.num_multimask_outputs
        chosen = list(range(every))[kept]
        if mask is None:
            side, finer = self._shared(image)
            groups = [(side, tokens)]
        else:
            dense, finer = decoder.prompts.dense(mask), _finer(image)
            owned = tokens.split(1 if len(dense) > 1 else len(tokens))
            groups = [
                (decoder.image_side(image.main, one[None]), some)
                for one, some in zip(dense, owned, strict=True)
            ]
        parts = [decoder.decode(side, some, chosen, finer) for side, some in groups]
        logits, scores, *others = (
            torch.cat(same) if len(same) > 1 else same[0] for same in zip(*parts, strict=True)
        )
        return logits, scores[:, kept], *others

    def _shared(self, image: Embedding) -> tuple[ImageSide, FinerLevels | None]:
        """The image side without a mask, kept for the latest image: embeddings are compared by value."""
        latest = self._latest
        if latest is None or not all(map(torch.equal, latest[0].tensors, image.tensors)):
            side = self.native_decoder.image_side(image.main, self.native_decoder.prompts.dense(None))
            latest = self._latest = (image.map(torch.clone), side, _finer(image))
        return latest[1:]


def _finer(image: Embedding) -> FinerLevels | None:
    return FinerLevels.of(*image.features) if image.features else None
