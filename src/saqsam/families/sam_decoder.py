"""SAM's prompt encoder and two-way mask decoder in their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model
from saqsam.families.sam_calls import SamCalls
from saqsam.families.sam_names import SamNames
from saqsam.families.shared_decoder import ImageDecoder, can_share


class SamDecoder(SamCalls):
    """See :class:`saqsam.families.record.Decoder`.

    Args:
        model: float or quantized.
    """

    path = SamNames.decoder
    iou_index = 0
    """Place of the IoU token; the tokens of the masks follow it."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._decoder: Any = self.model.mask_decoder

    @property
    def _two_way(self) -> Any:
        return self._decoder.transformer

    @property
    def transformer(self) -> nn.Module:
        """The two-way transformer, all that is quantized of the decoder."""
        return cast(nn.Module, self._two_way)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Its layers in order."""
        return cast(Sequence[nn.Module], self._two_way.layers)

    @property
    def final(self) -> nn.Module:
        """The last attention, in which tokens query the image once more."""
        return cast(nn.Module, self._two_way.final_attn_token_to_image)

    def prepared(self, embedding: Embedding, *, with_masks: bool = False) -> ImageDecoder | None:
        """See :mod:`saqsam.families.shared_decoder`."""
        if not can_share(self.model):
            return None
        return ImageDecoder(self.model, embedding.main, with_masks=with_masks)

    def output_tokens(self) -> Tensor:
        """``(T, C)``: the IoU token and the mask tokens."""
        return torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])

    def embed_prompts(
        self,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Sparse ``(B, P, T, C)``, ``None`` of masks alone, and dense ``(B, C, g, g)`` embeddings.

        Args:
            input_boxes: ``(B, P, 4)`` XYXY in pixels of the model's input.
            input_points: ``(B, P, K, 2)``, likewise.
            input_labels: ``(B, P, K)``: 1 on the object, 0 beside it, -10 padding.
            input_masks: ``(B, 1, 4g, 4g)`` logits.
        """
        sparse, dense = self.model.prompt_encoder(
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            input_masks=input_masks,
        )
        return sparse, dense

    def positions(self) -> Tensor:
        """Position code of the image tokens, ``(1, C, g, g)``."""
        return cast(Tensor, self.model.get_image_wide_positional_embeddings())

    def transform(self, tokens: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """All layers: ``(P, 1, T, C)`` and ``(P, C, g, g)`` -> the same and image tokens ``(P, 1, N, C)``."""
        found, keys = self._two_way(
            point_embeddings=tokens,
            image_embeddings=image,
            image_positional_embeddings=positions,
            attention_similarity=None,
        )
        return found, keys

    def layer(
        self, module: nn.Module, queries: Tensor, keys: Tensor, tokens: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One layer: queries ``(P, 1, T, C)`` and keys ``(P, 1, N, C)`` to the same."""
        queries, keys, _ = module(queries, keys, tokens, positions, None)
        return queries, keys

    def final_attention(self, queries: Tensor, keys: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Queries after the last attention, before their norm."""
        attended, _ = self.final(query=queries + tokens, key=keys + positions, value=keys)
        return cast(Tensor, attended + queries)

    def final_norm(self, queries: Tensor) -> Tensor:
        """The norm after the last attention: ``(P, 1, T, C) -> (P, T, C)``."""
        return cast(Tensor, self._two_way.layer_norm_final_attn(queries))[:, 0]

    def masks(self, tokens: Tensor, keys: Tensor, embedding: Embedding) -> Tensor:
        """Logits of all masks, ``(P, 16 * N, M)``: tokens ``(P, T, C)`` on image tokens ``(P, 1, N, C)``."""
        decoder = self._decoder
        height, width = embedding.main.shape[-2:]
        image = keys[:, 0].transpose(1, 2).unflatten(2, (height, width))
        image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
        image = decoder.activation(decoder.upscale_conv2(image)).flatten(2).transpose(1, 2)
        networks = decoder.output_hypernetworks_mlps
        asked = [network(tokens[:, 1 + index]) for index, network in enumerate(networks)]
        return cast(Tensor, image @ torch.stack(asked, dim=2))

    def scores(self, tokens: Tensor) -> Tensor:
        """Predicted IoU of all masks, ``(P, M)``, of tokens ``(P, T, C)``."""
        return cast(Tensor, self._decoder.iou_prediction_head(tokens[:, self.iou_index]))
