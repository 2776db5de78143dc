"""SAM's mask decoder for many prompts of one image, with the image's share of the work done once.

``transformers.SamModel`` copies the image embedding for every prompt and projects each copy again. Here
the decoder's own modules run in the same order on the same values; only what is common to all prompts is
computed once, and upscaling keeps channels last, where a 2x2 transposed convolution of stride 2 is a
linear layer. Results equal the plain path up to the order of float additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import (
    SamLayerNorm,
    SamMaskDecoder,
    SamTwoWayAttentionBlock,
    SamTwoWayTransformer,
)

from saqsam.families.cross_attention import image_to_tokens, is_known, tokens_to_image
from saqsam.families.record import Answers
from saqsam.modules.quantizer import Quantizer


@dataclass(frozen=True)
class DecoderKinds:
    """Classes of a decoder whose steps are SAM's."""

    decoder: type[nn.Module]
    transformer: type[nn.Module]
    layer: type[nn.Module]
    norm: type[nn.Module]
    """Of the upscaling."""


SAM_KINDS = DecoderKinds(SamMaskDecoder, SamTwoWayTransformer, SamTwoWayAttentionBlock, SamLayerNorm)


def can_share(model: Any, kinds: DecoderKinds = SAM_KINDS) -> bool:
    """True if :class:`ImageDecoder` gives what the model's own decoder gives.

    It does not where the decoder has other parts than SAM's, where a hook waits for a module to be called,
    or where an observer counts what passes: those must see every call of the plain path.
    """
    decoder: Any = model.mask_decoder
    if not _is_of(decoder, kinds):
        return False
    layers = list(decoder.transformer.layers)
    known = all(type(layer) is kinds.layer for layer in layers) and all(
        is_known(attention) for layer in layers for attention in _cross_attentions(layer)
    )
    return (
        known
        and is_known(decoder.transformer.final_attn_token_to_image)
        and _upscales_bypairs(decoder, kinds.norm)
        and not any(is_watched(module) for module in decoder.modules())
    )


def _is_of(decoder: Any, kinds: DecoderKinds) -> bool:
    return type(decoder) is kinds.decoder and type(decoder.transformer) is kinds.transformer


def _cross_attentions(layer: Any) -> tuple[nn.Module, nn.Module]:
    return layer.cross_attn_token_to_image, layer.cross_attn_image_to_token


def _upscales_bypairs(decoder: Any, norm: type[nn.Module]) -> bool:
    """Both upscaling layers turn each position into 2x2 positions of its own."""
    return type(decoder.upscale_layer_norm) is norm and all(
        type(conv) is nn.ConvTranspose2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((2, 2), (2, 2), (0, 0), 1)
        for conv in (decoder.upscale_conv1, decoder.upscale_conv2)
    )


def is_watched(module: nn.Module) -> bool:
    """True if a hook or an observer waits for the module to be called."""
    observed = isinstance(module, Quantizer) and module.observer is not None
    return observed or bool(module._forward_hooks) or bool(module._forward_pre_hooks)


class ImageDecoder:
    """The mask decoder, prepared for the prompts of one image.

    Args:
        model: float or quantized, accepted by :func:`can_share`.
        embeddings: ``(1, C, g, g)`` of the image.
        with_masks: whether prompts bring masks; each of them then has an image side of its own.
    """

    iou_index = 0
    """Place of the IoU token; the tokens of the masks follow it."""

    def __init__(self, model: Any, embeddings: Tensor, *, with_masks: bool = False) -> None:
        self.embeddings = embeddings
        self.decoder: Any = model.mask_decoder
        self.grid = int(embeddings.shape[-1])
        positions = model.get_image_wide_positional_embeddings().to(embeddings.dtype)
        self.positions = _as_tokens(positions)
        no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        self.image = None if with_masks else _as_tokens(embeddings + no_mask)
        transformer: Any = self.decoder.transformer
        shared = [self.image] + [None] * (len(transformer.layers) - 1)
        self.attentions = [
            (
                tokens_to_image(layer.cross_attn_token_to_image, self.positions, image),
                image_to_tokens(layer.cross_attn_image_to_token, self.positions, image),
            )
            for layer, image in zip(transformer.layers, shared, strict=True)
        ]
        self.final = tokens_to_image(transformer.final_attn_token_to_image, self.positions, None)

    def __call__(
        self, sparse: Tensor | None, dense: Tensor | None, *, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of P prompts.

        Args:
            sparse: ``(P, S, C)`` embedded points and boxes, or None where there are only masks.
            dense: ``(P, C, g, g)`` embedded mask prompts; given if and only if prepared ``with_masks``.
            multimask_output: M = 3 masks rather than the single M = 1.

        Returns:
            ``(P, M, 4g, 4g)`` mask logits and ``(P, M)`` predicted IoU.
        """
        tokens, image = self.attend(sparse, dense)
        scores = self.scores(tokens, multimask_output=multimask_output)
        return self.masks(tokens, image, multimask_output=multimask_output), scores

    def attend(self, sparse: Tensor | None, dense: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the transformer makes of P prompts: tokens ``(P, T, C)`` and image ``(P, g*g, C)``.

        For :meth:`scores` and :meth:`masks`: whoever needs few of the masks can look at the scores first.
        Arguments as in ``__call__``.
        """
        if (dense is None) == (self.image is None):
            raise ValueError("dense prompts go with an ImageDecoder prepared with_masks, and only with that")
        own = self.output_tokens()
        given = sparse if sparse is not None else dense
        own = own.expand(1 if given is None else len(given), -1, -1)
        tokens = own if sparse is None else torch.cat([own, sparse.to(own.dtype)], dim=1)
        return self._transform(tokens, None if dense is None else _as_tokens(self.embeddings + dense))

    def output_tokens(self) -> Tensor:
        """``(T, C)``: the IoU token and the mask tokens."""
        return torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])

    def scores(self, tokens: Tensor, *, multimask_output: bool) -> Tensor:
        """Predicted IoU ``(P, M)`` from tokens ``(P, T, C)`` of :meth:`attend`."""
        scores: Tensor = self.decoder.iou_prediction_head(tokens[:, self.iou_index])
        return scores[:, list(self._chosen(multimask_output))]

    def answer(self, tokens: Tensor, image: Tensor, *, multimask_output: bool, may_switch: bool) -> Answers:
        """All of it ``(P, ...)`` from what :meth:`attend` returned; a single mask is always the first."""
        del may_switch
        scores = self.scores(tokens, multimask_output=multimask_output)
        return Answers(self.masks(tokens, image, multimask_output=multimask_output), scores)

    def masks(self, tokens: Tensor, image: Tensor, *, multimask_output: bool) -> Tensor:
        """Mask logits ``(P, M, 4g, 4g)`` from what :meth:`attend` returned, or from some of its rows."""
        return self._drawn(tokens, image, self._chosen(multimask_output))

    def _upscaled(self, image: Tensor) -> Tensor:
        """Image tokens ``(P, N, C)`` to pixels ``(P, N, 4, 4, C / 8)``, four of four for each token."""
        decoder, norm = self.decoder, self.decoder.upscale_layer_norm
        x = pairs(decoder.upscale_conv1, image)
        x = decoder.activation(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        return cast(Tensor, decoder.activation(pairs(decoder.upscale_conv2, x)))

    def _drawn(self, tokens: Tensor, image: Tensor, chosen: range) -> Tensor:
        """Logits ``(P, len(chosen), 4g, 4g)`` of some of the masks."""
        x = self._upscaled(image)
        networks, first = self.decoder.output_hypernetworks_mlps, self.iou_index + 1
        asked = torch.stack([networks[index](tokens[:, first + index]) for index in chosen], dim=2)
        logits = torch.bmm(x.flatten(1, 3), asked)
        # Rows are (row, column, 2x2 of the first step, 2x2 of the second): bring rows and columns together.
        logits = logits.view(len(tokens), self.grid, self.grid, 2, 2, 2, 2, len(chosen))
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return logits.reshape(len(tokens), len(chosen), 4 * self.grid, 4 * self.grid)

    def _chosen(self, multimask_output: bool) -> range:
        return range(1, len(self.decoder.output_hypernetworks_mlps)) if multimask_output else range(1)

    def _transform(self, prompts: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two-way transformer: tokens ``(P, T, C)`` and image ``(P, N, C)`` after all blocks.

        ``image`` is None as long as it is the shared one.
        """
        transformer = self.decoder.transformer
        tokens = prompts
        for layer, (to_image, to_tokens) in zip(transformer.layers, self.attentions, strict=True):
            tokens = layer.layer_norm1(_self_attention(layer, tokens, prompts))
            tokens = layer.layer_norm2(tokens + to_image(tokens + prompts, image))
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            update = to_tokens(tokens + prompts, tokens, image)
            image = layer.layer_norm4(update.add_(cast(Tensor, self.image if image is None else image)))
        tokens = transformer.layer_norm_final_attn(tokens + self.final(tokens + prompts, image))
        return tokens, cast(Tensor, image)


def _self_attention(layer: Any, tokens: Tensor, prompts: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        only: Tensor = layer.self_attn(tokens[None], tokens[None], tokens[None])[0][0]
        return only
    query = (tokens + prompts)[None]
    return tokens + cast(Tensor, layer.self_attn(query, query, tokens[None])[0][0])


def _as_tokens(x: Tensor) -> Tensor:
    """``(P, C, g, g) -> (P, g*g, C)``, contiguous."""
    return x.flatten(2).transpose(1, 2).contiguous()


def pairs(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A 2x2 transposed convolution of stride 2 on channels-last ``(..., C) -> (..., 4, C')``."""
    channels = conv.out_channels
    weight = conv.weight.permute(2, 3, 1, 0).reshape(4 * channels, -1)
    bias = None if conv.bias is None else conv.bias.repeat(4)
    pixels: Tensor = F.linear(x, weight, bias).unflatten(-1, (4, channels))
    return pixels
