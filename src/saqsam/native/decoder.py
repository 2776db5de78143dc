"""The mask decoder on the kernels: what the image alone decides once, then a few prompts at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.graphs.source import Source
from saqsam.native.crossing import Crossing, Projection
from saqsam.native.image import Asked, ImageSide, ImageStep
from saqsam.native.kernels import Kernels
from saqsam.native.masks import FinerLevels, Masks
from saqsam.native.norm import DecoderNorm
from saqsam.native.parts import Parts
from saqsam.native.prompts import Prompts

_LAST_NORM_EPSILON = 1e-5
"""Of the norm after the last attention, which has no setting."""
_AT_ONCE = 8
"""Prompts whose image tokens are held at once: some 6 MB each in a SAM."""


@dataclass(frozen=True)
class TwoWayLayer:
    """One layer of the transformer; norms follow self-attention, tokens to image, MLP and image to tokens."""

    among: Crossing
    to_image: Crossing
    mlp: tuple[Projection, Projection]
    to_tokens: Crossing
    norms: tuple[DecoderNorm, ...]


class NativeDecoder:
    """The decoder of a packed model.

    Args:
        source: of a model that ``unsupported_decoder`` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Source, kernels: Kernels) -> None:
        parts, names = Parts(source, kernels), source.names
        self._kernels, self._image = kernels, source.grid**2
        self.prompts, self.masks = Prompts(source, kernels), Masks(parts)
        self._positions = self.prompts.of_image(source.grid)
        epsilon = source.decoder_epsilon
        self.layers = [
            TwoWayLayer(
                Crossing.of(parts, layer.self_attention),
                Crossing.of(parts, layer.tokens_to_image),
                (Projection.of(parts, layer.mlp_in), Projection.of(parts, layer.mlp_out)),
                Crossing.of(parts, layer.image_to_tokens),
                tuple(DecoderNorm.of(parts, path, epsilon) for path in layer.norms),
            )
            for layer in names.layers
        ]
        self.final = Crossing.of(parts, names.final_attention)
        self.steps = [ImageStep(kernels, self._positions, self._asked(0))] + [
            ImageStep(kernels, self._positions, self._asked(index + 1), layer.to_tokens, layer.norms[3])
            for index, layer in enumerate(self.layers)
        ]
        self._final_norm = DecoderNorm.of(parts, names.final_norm, _LAST_NORM_EPSILON)

    def image_side(self, embedding: Tensor, dense: Tensor) -> ImageSide:
        """What the first layer sees of an image ``(1, C, g, g)``, with what ``Prompts.dense`` made."""
        tokens = (embedding.float() + dense).flatten(2).transpose(1, 2)[0].contiguous()
        return self.steps[0].seen(tokens)

    def decode(
        self, side: ImageSide, tokens: Tensor, chosen: list[int], finer: FinerLevels | None = None
    ) -> tuple[Tensor, ...]:
        """Logits ``(P, len(chosen), 4g, 4g)``, predicted IoU of all masks ``(P, M)``, and of SAM 2 logits
        ``(P, 1)`` of there being an object.

        Args:
            side: of the image.
            tokens: ``(P, T, C)`` of ``Prompts.tokens``.
            chosen: places of the masks to draw.
            finer: of SAM 2, the image's.
        """
        parts = []
        for some in tokens.split(_AT_ONCE):
            found, image = self.transform(side, some)
            parts.append((self.masks.draw(found, image, chosen, finer), *self.masks.scores(found)))
        return tuple(torch.cat(same) if len(parts) > 1 else same[0] for same in zip(*parts, strict=True))

    def transform(self, side: ImageSide, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: tokens ``(P, T, C)`` and image ``(P * g * g, C)`` after all layers."""
        origin = tokens
        for index in range(len(self.layers)):
            tokens = self.among_tokens(index, tokens, origin)
            tokens, side = self.with_image(index, tokens, origin, side)
        found = self.final.tokens_ask(
            self._kernels, tokens + origin, side.codes[0], side.codes[1], self._image
        )
        return self._final_norm(tokens + found), side.tokens

    def among_tokens(self, index: int, tokens: Tensor, origin: Tensor) -> Tensor:
        """The first step of a layer: tokens ``(P, T, C)`` ask each other."""
        layer = self.layers[index]
        if index == 0:
            return layer.norms[0](layer.among.among_tokens(tokens, tokens))
        return layer.norms[0](tokens + layer.among.among_tokens(tokens + origin, tokens))

    def with_image(
        self, index: int, tokens: Tensor, origin: Tensor, side: ImageSide
    ) -> tuple[Tensor, ImageSide]:
        """The other steps: tokens ask the image, the MLP, and the image asks tokens.

        From the second layer on ``side`` is each prompt's own, and written to.
        """
        layer, kernels = self.layers[index], self._kernels
        found = layer.to_image.tokens_ask(kernels, tokens + origin, side.codes[0], side.codes[1], self._image)
        tokens = layer.norms[1](tokens + found)
        hidden, last = layer.mlp
        tokens = layer.norms[2](tokens + last.values(F.relu(hidden.values(tokens))))
        return tokens, self._updated(index, tokens, origin, side)

    def _updated(self, index: int, tokens: Tensor, origin: Tensor, side: ImageSide) -> ImageSide:
        """The image after it asked tokens, as the next layer sees it."""
        crossing, (prompts, count, channels) = self.layers[index].to_tokens, tokens.shape
        key = crossing.key.codes((tokens + origin).flatten(0, 1))
        value = crossing.value.codes(tokens.flatten(0, 1))
        step = self.steps[index + 1]
        into = side if index else ImageSide.empty(prompts * self._image, channels, self._asked(0))
        step.run(side, key, value, count, into)
        return into

    def _asked(self, index: int) -> list[Asked]:
        """What a layer projects of the image; after the last one the final attention."""
        if index == len(self.layers):
            return [Asked(self.final.key, True), Asked(self.final.value, False)]
        layer = self.layers[index]
        return [
            Asked(layer.to_image.key, True),
            Asked(layer.to_image.value, False),
            Asked(layer.to_tokens.query, True),
        ]
