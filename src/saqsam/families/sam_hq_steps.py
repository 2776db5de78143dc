"""SAM-HQ's encoder and decoder in their steps: SAM's, with one more tensor and one more token.

The encoder's blocks are SAM's; the tokens after the first block with global attention go on to the decoder
beside the embedding. The decoder's transformer is SAM's with one more output token, which asks for one more
mask on features of its own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers.models.sam_hq.modeling_sam_hq import (
    SamHQLayerNorm,
    SamHQTwoWayAttentionBlock,
    SamHQTwoWayTransformer,
    SamHQVisionAttention,
    SamHQVisionEncoder,
    SamHQVisionLayer,
)

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers, State
from saqsam.families.sam_decoder import SamDecoder
from saqsam.families.sam_encoder import EncoderKinds, SamEncoder
from saqsam.families.sam_hq_model import HQMaskDecoder
from saqsam.families.shared_decoder import DecoderKinds, ImageDecoder, can_share


class HQEncoder(SamEncoder):
    """See :class:`saqsam.families.record.Encoder`."""

    turns = False
    kinds = EncoderKinds(SamHQVisionEncoder, SamHQVisionLayer, SamHQVisionAttention)

    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The tokens, and behind the first block with global attention also those that it made."""
        early = state[1:]
        if not early and cast(Any, self.blocks[index]).window_size == 0:
            early = (x,)
        return (x, *early)

    def finish(self, state: State) -> Embedding:
        """``(B, C, g, g)`` and the early tokens ``(B, D, g, g)``, from the state after the last block."""
        return _embedding(cast(Tensor, self.neck(state[0])), state[1])

    def plain(self, pixel_values: Tensor) -> Embedding:
        """As :meth:`encode`, by the encoder's own ``forward``."""
        output = self._parts(pixel_values)
        return _embedding(output.last_hidden_state, output.intermediate_embeddings[0])


def _embedding(main: Tensor, early: Tensor) -> Embedding:
    """Early tokens ``(B, g, g, D)`` have their channels first there, as the main tensor has."""
    return Embedding(main, (early.permute(0, 3, 1, 2),))


class HQDecoder(SamDecoder):
    """See :class:`saqsam.families.record.Decoder`."""

    kinds = DecoderKinds(HQMaskDecoder, SamHQTwoWayTransformer, SamHQTwoWayAttentionBlock, SamHQLayerNorm)

    @property
    def _alone(self) -> bool:
        return hq_token_only(self.model.config)

    def answer(
        self,
        embedding: Embedding,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = False,
        may_switch: bool = False,
    ) -> Answers:
        """Masks ``(B, P, M, 4g, 4g)`` and predicted IoU by the model's own ``forward``."""
        del may_switch
        output = self.model(
            image_embeddings=embedding.main,
            intermediate_embeddings=[x.permute(0, 2, 3, 1) for x in embedding.features],
            input_boxes=input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
            multimask_output=multimask_output,
            hq_token_only=self._alone,
        )
        return Answers(output.pred_masks, output.iou_scores)

    def prepared(self, embedding: Embedding, *, with_masks: bool = False) -> ImageDecoder | None:
        """See :mod:`saqsam.families.shared_decoder`."""
        if not can_share(self.model, self.kinds):
            return None
        return HQImageDecoder(self.model, embedding, self._alone, with_masks=with_masks)

    def output_tokens(self) -> Tensor:
        """``(T, C)``: the IoU token, the mask tokens and the high-quality one."""
        return torch.cat([super().output_tokens(), self._decoder.hq_token.weight])

    def masks(self, tokens: Tensor, keys: Tensor, embedding: Embedding) -> Tensor:
        """Logits of all masks, ``(P, 16 * N, M)``: tokens ``(P, T, C)`` on image tokens ``(P, 1, N, C)``."""
        decoder = self._decoder
        height, width = embedding.main.shape[-2:]
        image = keys[:, 0].transpose(1, 2).unflatten(2, (height, width))
        features = decoder.image_features(embedding.main, embedding.features[0])
        every = list(range(len(decoder.output_hypernetworks_mlps)))
        masks: Tensor = decoder.masks(tokens, image, features, every, self._alone)
        return masks.expand(-1, len(every), -1, -1).flatten(2).transpose(1, 2)


class HQImageDecoder(ImageDecoder):
    """The mask decoder, prepared for the prompts of one image.

    Args:
        model: float or quantized, accepted by ``can_share``.
        embedding: of one image.
        alone: the high-quality mask alone, rather than added to SAM's own.
        with_masks: whether prompts bring masks.
    """

    def __init__(self, model: Any, embedding: Embedding, alone: bool, *, with_masks: bool) -> None:
        super().__init__(model, embedding.main, with_masks=with_masks)
        self.features = self.decoder.image_features(embedding.main, embedding.features[0])
        self.alone = alone

    def output_tokens(self) -> Tensor:
        """``(T, C)``: the IoU token, the mask tokens and the high-quality one."""
        return torch.cat([super().output_tokens(), self.decoder.hq_token.weight])

    def masks(self, tokens: Tensor, image: Tensor, *, multimask_output: bool) -> Tensor:
        """Mask logits ``(P, M, 4g, 4g)`` from what ``attend`` returned, or from some of its rows."""
        chosen = self._chosen(multimask_output)
        image = image.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        masks: Tensor = self.decoder.masks(tokens, image, self.features, list(chosen), self.alone)
        return masks.expand(-1, len(chosen), -1, -1)


def hq_token_only(config: Any) -> bool:
    """Whether the high-quality mask is the whole answer, rather than added to SAM's own."""
    return bool(getattr(config.mask_decoder_config, "hq_token_only", False))
