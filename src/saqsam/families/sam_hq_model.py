"""SAM-HQ (Ke et al. 2023, arXiv:2306.01567) with the mask decoder as it was published.

``transformers.SamHQModel`` 5.23 upscales the image that its two-way transformer was given, rows and columns
swapped, and throws away what the transformer made of it; its masks are not those of SAM-HQ. The class here
has the same modules and tensors, and takes the transformer's image; ``docs/transformers-sam-hq.md`` has the
reproduction. It also keeps the masks of ``multimask_output`` in the order of their tokens, as SAM does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import SamHQModel
from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder


class HQMaskDecoder(SamHQMaskDecoder):
    """``transformers``' modules, run as published."""

    def forward(  # type: ignore[override]  # masks and scores, as what it replaces really returns
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        hq_token_only: bool,
        intermediate_embeddings: list[Tensor] | None = None,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts on images.

        Args:
            image_embeddings: ``(B, C, g, g)``.
            image_positional_embeddings: ``(B, C, g, g)``.
            sparse_prompt_embeddings: ``(B, P, S, C)``, or None where there are only masks.
            dense_prompt_embeddings: ``(B, C, g, g)``.
            multimask_output: three masks for a prompt rather than one.
            hq_token_only: the high-quality mask alone, rather than added to SAM's own.
            intermediate_embeddings: ``(B, g, g, D)`` tokens after each block with global attention, of which
                the first is used.
            attention_similarity, target_embedding: as of ``SamHQMaskDecoder``.

        Returns:
            ``(B, P, M, 4g, 4g)`` logits and ``(B, P, M)`` predicted IoU, M = 1 or 3.
        """
        if not intermediate_embeddings:
            raise ValueError("SAM-HQ decodes with the tokens of the first global block; give them too")
        batch, _, *size = image_embeddings.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hq_token.weight])
        if sparse_prompt_embeddings is None:
            tokens = own.expand(batch, 1, -1, -1)
        else:
            prompts = sparse_prompt_embeddings.shape[1]
            tokens = torch.cat(
                [own.expand(batch, prompts, -1, -1), sparse_prompt_embeddings.to(own.dtype)], dim=2
            )
        prompts = tokens.shape[1]
        tokens, image = self.transformer(
            point_embeddings=tokens,
            image_embeddings=(image_embeddings + dense_prompt_embeddings).repeat_interleave(prompts, 0),
            image_positional_embeddings=image_positional_embeddings.repeat_interleave(prompts, 0),
            attention_similarity=attention_similarity,
            target_embedding=target_embedding,
        )
        features = self.image_features(image_embeddings, intermediate_embeddings[0].permute(0, 3, 1, 2))
        image = image.flatten(0, 1).transpose(1, 2).unflatten(2, size)
        chosen = list(range(1, len(self.output_hypernetworks_mlps)) if multimask_output else range(1))
        masks = self.masks(
            tokens.flatten(0, 1), image, features.repeat_interleave(prompts, 0), chosen, hq_token_only
        )
        scores = cast(Tensor, self.iou_prediction_head(tokens[:, :, 0]))[:, :, chosen]
        if hq_token_only:
            masks = masks.expand(-1, len(chosen), -1, -1)
        return masks.unflatten(0, (batch, prompts)), scores

    def image_features(self, image_embeddings: Tensor, early: Tensor) -> Tensor:
        """What the high-quality mask sees of the image without its prompts.

        Args:
            image_embeddings: ``(B, C, g, g)``.
            early: ``(B, D, g, g)`` tokens after the first block with global attention.

        Returns:
            ``(B, C / 8, 4g, 4g)``.
        """
        parts: Any = self
        x = parts.activation(parts.encoder_norm(parts.encoder_conv1(image_embeddings)))
        y = parts.activation(parts.compress_vit_norm(parts.compress_vit_conv1(early)))
        return cast(Tensor, parts.encoder_conv2(x) + parts.compress_vit_conv2(y))

    def upscale(self, image: Tensor) -> Tensor:
        """``(P, C, g, g)`` from the transformer to ``(P, C / 8, 4g, 4g)``, on which SAM's masks are drawn."""
        parts: Any = self
        x = parts.activation(parts.upscale_layer_norm(parts.upscale_conv1(image)))
        return cast(Tensor, parts.activation(parts.upscale_conv2(x)))

    def fine(self, large: Tensor, features: Tensor) -> Tensor:
        """What the high-quality mask is drawn on, ``(P, C / 8, 4g, 4g)``, of :meth:`upscale` and
        :meth:`image_features`."""
        parts: Any = self
        x = parts.activation(parts.mask_norm(parts.mask_conv1(large)))
        return cast(Tensor, parts.mask_conv2(x) + features)

    def masks(
        self, tokens: Tensor, image: Tensor, features: Tensor, chosen: list[int], hq_token_only: bool
    ) -> Tensor:
        """Logits ``(P, M, 4g, 4g)`` of some masks, or ``(P, 1, 4g, 4g)`` of the high-quality one alone.

        Args:
            tokens: ``(P, T, C)`` from the transformer.
            image: ``(P, C, g, g)`` from the transformer.
            features: ``(P, C / 8, 4g, 4g)`` of :meth:`image_features`.
            chosen: M of the masks of SAM's own tokens.
            hq_token_only: leave those out.
        """
        large = self.upscale(image)
        last = 1 + len(self.output_hypernetworks_mlps)
        asked = self.hq_mask_mlp(tokens[:, last, None])
        drawn = _on(asked, self.fine(large, features))
        if hq_token_only:
            return drawn
        networks = self.output_hypernetworks_mlps
        asked = torch.stack([networks[index](tokens[:, 1 + index]) for index in chosen], dim=1)
        return _on(asked, large) + drawn


def _on(asked: Tensor, large: Tensor) -> Tensor:
    """``asked (P, M, c)`` on ``large (P, c, H, W)`` -> ``(P, M, H, W)``."""
    product: Tensor = (asked @ large.flatten(2)).unflatten(2, large.shape[2:])
    return product


class HQModel(SamHQModel):
    """``transformers.SamHQModel`` with :class:`HQMaskDecoder`; the same names and tensors."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.mask_decoder = HQMaskDecoder(config.mask_decoder_config)
