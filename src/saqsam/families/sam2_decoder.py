"""SAM 2's prompt encoder and mask decoder in their steps: SAM's, with finer features and an object score."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers
from saqsam.families.sam2_shared_decoder import SAM2_KINDS, Sam2ImageDecoder
from saqsam.families.sam_decoder import SamDecoder
from saqsam.families.shared_decoder import can_share


class Sam2Decoder(SamDecoder):
    """See :class:`saqsam.families.record.Decoder`.

    Args:
        model: float or quantized, or a stand-in with the calls of one: then only :meth:`answer` works.
    """

    iou_index = 1
    """Before it is the token of the object score, after it those of the masks."""

    @property
    def switches(self) -> bool:
        """By the setting that comes with the weights; it is on in the published files."""
        return bool(self.model.config.mask_decoder_config.dynamic_multimask_via_stability)

    def output_tokens(self) -> Tensor:
        """``(T, C)``: object score, IoU, masks."""
        decoder = self._decoder
        tokens = decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens
        return torch.cat([token.weight for token in tokens])

    def embed_prompts(
        self,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """As of :class:`SamDecoder`. A box makes three tokens and K clicks K + 1: one says that no more
        follow. Masks alone come with that one and an empty click, as the model was trained."""
        if input_boxes is None and input_points is None and input_masks is not None:
            input_points = input_masks.new_zeros((len(input_masks), 1, 1, 2))
            input_labels = -torch.ones((len(input_masks), 1, 1), dtype=torch.int32, device=input_masks.device)
        return super().embed_prompts(
            input_boxes=input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
        )

    def prepared(self, embedding: Embedding, *, with_masks: bool = False) -> Sam2ImageDecoder | None:
        """See :mod:`saqsam.families.sam2_shared_decoder`."""
        if not can_share(self.model, SAM2_KINDS):
            return None
        return Sam2ImageDecoder(self.model, embedding, with_masks=with_masks)

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
        """Masks ``(B, P, M, 4g, 4g)``, predicted IoU and object scores, by the modules of the model."""
        may_switch = may_switch and self.switches and not multimask_output
        if self._decoder is None:
            return cast(
                Answers,
                self.model.answer(
                    embedding,
                    input_boxes=input_boxes,
                    input_points=input_points,
                    input_labels=input_labels,
                    input_masks=input_masks,
                    multimask_output=multimask_output,
                    may_switch=may_switch,
                ),
            )
        sparse, dense = self.embed_prompts(
            input_boxes=input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
        )
        batch, prompts = len(embedding), 1
        output = self.output_tokens()
        if sparse is None:
            tokens = output.expand(batch, prompts, -1, -1)
        else:
            prompts = sparse.shape[1]
            tokens = torch.cat([output.expand(batch, prompts, -1, -1), sparse.to(output.dtype)], dim=2)
        image = (embedding.main + dense).repeat_interleave(prompts, dim=0)
        tokens, keys = self.transform(tokens.flatten(0, 1)[:, None], image, self.positions())
        tokens = tokens[:, 0]
        features = tuple(x.repeat_interleave(prompts, dim=0) for x in embedding.features)
        each = Embedding(image, features)
        low = 4 * image.shape[-1]
        masks = self.masks(tokens, keys, each).transpose(1, 2).unflatten(2, (low, low))
        masks, scores = (x.unflatten(0, (batch, prompts)) for x in (masks, self.scores(tokens)))
        objects = self.object_scores(tokens).unflatten(0, (batch, prompts))
        if multimask_output:
            return Answers(masks[:, :, 1:], scores[:, :, 1:], objects)
        if may_switch:
            masks, scores = self._decoder._dynamic_multimask_via_stability(masks, scores)
            return Answers(masks, scores, objects)
        return Answers(masks[:, :, :1], scores[:, :, :1], objects)

    def masks(self, tokens: Tensor, keys: Tensor, embedding: Embedding) -> Tensor:
        """Logits of all masks, ``(P, 16 * N, M)``; the finer levels are added while upscaling."""
        decoder = self._decoder
        height, width = embedding.main.shape[-2:]
        fine, middle = embedding.features
        image = keys[:, 0].transpose(1, 2).unflatten(2, (height, width))
        image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image) + middle))
        image = decoder.activation(decoder.upscale_conv2(image) + fine).flatten(2).transpose(1, 2)
        networks = decoder.output_hypernetworks_mlps
        asked = [network(tokens[:, self.iou_index + 1 + index]) for index, network in enumerate(networks)]
        return cast(Tensor, image @ torch.stack(asked, dim=2))

    def object_scores(self, tokens: Tensor) -> Tensor:
        """Logits ``(P,)`` of there being an object, of tokens ``(P, T, C)``."""
        return cast(Tensor, self._decoder.pred_obj_score_head(tokens[:, 0]))[:, 0]
