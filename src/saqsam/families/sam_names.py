"""Paths of the modules of a ``transformers.SamModel``: for its record, and for graphs built from a file."""

from __future__ import annotations

from dataclasses import dataclass

from saqsam.families.record import (
    DECODER,
    ENCODER,
    KEY_CENTRING,
    QUERY_KEY_ROTATION,
    VALUE_FOLDS,
    Attention,
)

_ENCODER, _DECODER, _PROMPTS = "vision_encoder", "mask_decoder", "prompt_encoder"
_TRANSFORMER = f"{_DECODER}.transformer"
_EXACT_IN_ENCODER = frozenset((KEY_CENTRING, QUERY_KEY_ROTATION, VALUE_FOLDS))
"""Queries also meet tables of relative positions that all heads share: these can be turned with them, but not
scaled or flipped channel by channel for one head."""


@dataclass(frozen=True)
class EncoderBlockNames:
    """One block of the image encoder: norm, attention, norm, MLP."""

    path: str
    norms: tuple[str, str]
    attention: Attention
    tables: tuple[str, str]
    """Relative positions of rows and of columns."""
    mlp: str
    mlp_in: str
    mlp_out: str

    @classmethod
    def of(cls, index: int) -> EncoderBlockNames:
        path = f"{_ENCODER}.layers.{index}"
        attention = Attention(
            f"{path}.attn", ENCODER, (f"{path}.attn.qkv",), f"{path}.attn.proj", exact=_EXACT_IN_ENCODER
        )
        return cls(
            path,
            (f"{path}.layer_norm1", f"{path}.layer_norm2"),
            attention,
            (f"{path}.attn.rel_pos_h", f"{path}.attn.rel_pos_w"),
            f"{path}.mlp",
            f"{path}.mlp.lin1",
            f"{path}.mlp.lin2",
        )


@dataclass(frozen=True)
class DecoderLayerNames:
    """One two-way layer; its norms follow self-attention, tokens to image, MLP and image to tokens."""

    path: str
    self_attention: Attention
    tokens_to_image: Attention
    image_to_tokens: Attention
    norms: tuple[str, str, str, str]
    mlp: str
    mlp_in: str
    mlp_out: str

    @classmethod
    def of(cls, index: int) -> DecoderLayerNames:
        path = f"{_TRANSFORMER}.layers.{index}"
        norms = tuple(f"{path}.layer_norm{number}" for number in (1, 2, 3, 4))
        return cls(
            path,
            _decoder_attention(f"{path}.self_attn"),
            _decoder_attention(f"{path}.cross_attn_token_to_image", asks_image=True),
            _decoder_attention(f"{path}.cross_attn_image_to_token"),
            (norms[0], norms[1], norms[2], norms[3]),
            f"{path}.mlp",
            f"{path}.mlp.lin1",
            f"{path}.mlp.lin2",
        )


def _decoder_attention(path: str, *, asks_image: bool = False) -> Attention:
    projections = tuple(f"{path}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    return Attention(path, DECODER, projections, f"{path}.out_proj", asks_image)


def _hq(*names: str) -> tuple[str, ...]:
    return tuple(f"{_DECODER}.{name}" for name in names)


_FINAL = _decoder_attention(f"{_TRANSFORMER}.final_attn_token_to_image", asks_image=True)


@dataclass(frozen=True)
class SamNames:
    """All of a SAM; blocks and layers by their number, the rest the same in every SAM."""

    blocks: tuple[EncoderBlockNames, ...]
    layers: tuple[DecoderLayerNames, ...]
    shared_positions: str = "shared_image_embedding"
    frequencies: str = "shared_image_embedding.positional_embedding"
    shared_frequencies: str = f"{_PROMPTS}.shared_embedding.positional_embedding"
    """The same table again."""
    encoder: str = _ENCODER
    patches: str = f"{_ENCODER}.patch_embed"
    projection: str = f"{_ENCODER}.patch_embed.projection"
    positions: str = f"{_ENCODER}.pos_embed"
    neck: str = f"{_ENCODER}.neck"
    neck_convolutions: tuple[str, str] = (f"{_ENCODER}.neck.conv1", f"{_ENCODER}.neck.conv2")
    neck_norms: tuple[str, str] = (f"{_ENCODER}.neck.layer_norm1", f"{_ENCODER}.neck.layer_norm2")
    prompts: str = _PROMPTS
    points: str = f"{_PROMPTS}.point_embed"
    no_point: str = f"{_PROMPTS}.not_a_point_embed.weight"
    mask_embedding: str = f"{_PROMPTS}.mask_embed"
    no_mask: str = f"{_PROMPTS}.no_mask_embed.weight"
    output_tokens: tuple[str, ...] = (f"{_DECODER}.iou_token", f"{_DECODER}.mask_tokens")
    decoder: str = _DECODER
    transformer: str = _TRANSFORMER
    final_attention: Attention = _FINAL
    final_norm: str = f"{_TRANSFORMER}.layer_norm_final_attn"
    upscaling: tuple[str, str] = (f"{_DECODER}.upscale_conv1", f"{_DECODER}.upscale_conv2")
    upscaling_norm: str = f"{_DECODER}.upscale_layer_norm"
    mask_heads: str = f"{_DECODER}.output_hypernetworks_mlps"
    iou_head: str = f"{_DECODER}.iou_prediction_head"
    object_head: str = f"{_DECODER}.pred_obj_score_head"
    """Of SAM 2 and 3."""
    hq_token: str = f"{_DECODER}.hq_token"
    hq_head: str = f"{_DECODER}.hq_mask_mlp"
    hq_image: tuple[str, ...] = _hq("compress_vit_conv1", "compress_vit_norm", "compress_vit_conv2") + _hq(
        "encoder_conv1", "encoder_norm", "encoder_conv2"
    )
    """SAM-HQ's features of the image: of the early tokens, then of the embedding."""
    hq_large: tuple[str, ...] = _hq("mask_conv1", "mask_norm", "mask_conv2")
    """SAM-HQ's features of a prompt's masks."""

    @classmethod
    def of(cls, blocks: int, layers: int) -> SamNames:
        """The names of a SAM with so many encoder blocks and decoder layers."""
        return cls(
            tuple(map(EncoderBlockNames.of, range(blocks))), tuple(map(DecoderLayerNames.of, range(layers)))
        )
