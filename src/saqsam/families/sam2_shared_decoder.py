"""SAM 2's mask decoder for many prompts of one image, with the image's share of the work done once."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam2.modeling_sam2 import (
    Sam2LayerNorm,
    Sam2MaskDecoder,
    Sam2TwoWayAttentionBlock,
    Sam2TwoWayTransformer,
)

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers
from saqsam.families.shared_decoder import DecoderKinds, ImageDecoder, pairs

SAM2_KINDS = DecoderKinds(Sam2MaskDecoder, Sam2TwoWayTransformer, Sam2TwoWayAttentionBlock, Sam2LayerNorm)


class Sam2ImageDecoder(ImageDecoder):
    """The mask decoder, prepared for the prompts of one image.

    Args:
        model: float or quantized, accepted by ``can_share``.
        embedding: of one image, with the two finer levels.
        with_masks: whether prompts bring masks.
    """

    iou_index = 1
    """Before it is the token of the object score."""

    def __init__(self, model: Any, embedding: Embedding, *, with_masks: bool) -> None:
        super().__init__(model, embedding.main, with_masks=with_masks)
        fine, middle = embedding.features
        grid = self.grid
        # In the order in which pixels come out of upscaling: token, 2x2 of the first step, 2x2 of the second.
        by_two = middle.unflatten(3, (grid, 2)).unflatten(2, (grid, 2)).permute(0, 2, 4, 3, 5, 1)
        by_four = fine.unflatten(3, (grid, 2, 2)).unflatten(2, (grid, 2, 2)).permute(0, 2, 5, 3, 6, 4, 7, 1)
        self.middle = by_two.flatten(3, 4).flatten(1, 2)
        self.fine = by_four.flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def output_tokens(self) -> Tensor:
        """``(T, C)``: object score, IoU, masks."""
        decoder = self.decoder
        tokens = decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens
        return torch.cat([token.weight for token in tokens])

    def answer(self, tokens: Tensor, image: Tensor, *, multimask_output: bool, may_switch: bool) -> Answers:
        """Masks, predicted IoU and object scores of P prompts, from what :meth:`attend` returned."""
        objects = cast(Tensor, self.decoder.pred_obj_score_head(tokens[:, 0]))[:, 0]
        if multimask_output or not may_switch:
            scores = self.scores(tokens, multimask_output=multimask_output)
            return Answers(self.masks(tokens, image, multimask_output=multimask_output), scores, objects)
        scores = self.decoder.iou_prediction_head(tokens[:, self.iou_index])
        masks = self._drawn(tokens, image, range(scores.shape[1]))
        masks, scores = self.decoder._dynamic_multimask_via_stability(masks[None], scores[None])
        return Answers(masks[0], scores[0], objects)

    def _upscaled(self, image: Tensor) -> Tensor:
        """Image tokens ``(P, N, C)`` to pixels ``(P, N, 4, 4, C / 8)``, finer levels added."""
        decoder, norm = self.decoder, self.decoder.upscale_layer_norm
        x = pairs(decoder.upscale_conv1, image).add_(self.middle)
        x = decoder.activation(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        return cast(Tensor, decoder.activation(pairs(decoder.upscale_conv2, x).add_(self.fine)))
