"""SAM-HQ's mask decoder written down from its paper (Ke et al. 2023, arXiv:2306.01567) and released code.

It reads tensors by their official names and knows nothing of ``transformers`` or of saqsam. Of the original
SAM's parts it takes those of :mod:`tests.checkpoints.published`, with their sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tests.checkpoints.published import (
    GRID,
    Official,
    image_and_positions,
    sparse_prompt,
    two_way,
    upscaled,
)
from torch import Tensor

from saqsam.prompts.prompts import Prompts


def mask_decoder(
    sam: Official,
    embedding: Tensor,
    early: Tensor,
    prompts: Prompts,
    row: int,
    *,
    wrong_image: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """All masks of one prompt.

    Args:
        sam: tensors of an official SAM-HQ file.
        embedding: ``(1, C, g, g)``.
        early: ``(1, g, g, D)`` tokens after the first block with global attention.
        prompts: of which one is decoded.
        row: which one.
        wrong_image: upscale what the transformer was given, with rows and columns swapped, rather than what
            it made of it.

    Returns:
        SAM's own logits ``(4, 4g, 4g)``, the high-quality ones ``(4g, 4g)``, predicted IoU ``(4,)``.
    """
    own = [sam.state[f"mask_decoder.{token}.weight"] for token in ("iou_token", "mask_tokens", "hf_token")]
    tokens = torch.cat([*own, sparse_prompt(sam, prompts, row)])
    given, positions = image_and_positions(sam, embedding, prompts, row)
    x, made = two_way(sam, tokens, given, positions)
    if wrong_image:
        made = given.reshape(GRID, GRID, -1).transpose(0, 1).reshape(GRID * GRID, -1)
    large = upscaled(sam, made)
    weights = [sam.mlp(f"mask_decoder.output_hypernetworks_mlps.{i}", x[1 + i]) for i in range(4)]
    masks = torch.einsum("mc,chw->mhw", torch.stack(weights), large[0])
    fine = _features_of_masks(sam, large) + _features_of_image(sam, embedding, early)
    high_quality = torch.einsum("c,chw->hw", sam.mlp("mask_decoder.hf_mlp", x[5]), fine[0])
    return masks, high_quality, sam.mlp("mask_decoder.iou_prediction_head", x[0])


def _features_of_image(sam: Official, embedding: Tensor, early: Tensor) -> Tensor:
    """The embedding and the early tokens, each upscaled to ``(1, C / 8, 4g, 4g)``, together."""
    total = torch.zeros(())
    for name, x in (("embedding_encoder", embedding), ("compress_vit_feat", early.movedim(-1, 1))):
        path = f"mask_decoder.{name}"
        x = F.gelu(sam.norm_channels(f"{path}.1", sam.up(f"{path}.0", x)))
        total = total + sam.up(f"{path}.3", x)
    return total


def _features_of_masks(sam: Official, large: Tensor) -> Tensor:
    """The upscaled image side of one prompt, ``(1, C / 8, 4g, 4g)``, through two convolutions."""
    path = "mask_decoder.embedding_maskfeature"
    x = F.gelu(sam.norm_channels(f"{path}.1", sam.conv(f"{path}.0", large, padding=1)))
    return sam.conv(f"{path}.3", x, padding=1)
