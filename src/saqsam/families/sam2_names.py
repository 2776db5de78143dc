"""Paths of the modules of a ``transformers.Sam2Model``."""

from __future__ import annotations

from dataclasses import dataclass

from saqsam.families.record import ALL_FOLDS, DECODER, ENCODER, QUERY_KEY_ROTATION, SIGN_FLIP, Attention

_BACKBONE, _DECODER = "vision_encoder.backbone", "mask_decoder"
_TRANSFORMER = f"{_DECODER}.transformer"
_POOLED = ALL_FOLDS - {SIGN_FLIP, QUERY_KEY_ROTATION}
"""Queries are max-pooled between projection and product: a maximum keeps its place under positive factors
only."""

ENCODER_PATH = "vision_encoder"
NECK = "vision_encoder.neck"
NECK_CONVOLUTIONS = tuple(f"{NECK}.convs.{level}" for level in range(4))
"""From the coarsest level to the finest."""
FEATURE_CONVOLUTIONS = (f"{_DECODER}.conv_s0", f"{_DECODER}.conv_s1")
"""They lie in the decoder and run once for an image: the finest level, and the next."""
PATCHES = f"{_BACKBONE}.patch_embed"
POSITIONS = (f"{_BACKBONE}.pos_embed", f"{_BACKBONE}.pos_embed_window")
PROMPTS = "prompt_encoder"
NO_MEMORY = "no_memory_embedding"
OUTPUT_TOKENS = (f"{_DECODER}.obj_score_token", f"{_DECODER}.iou_token", f"{_DECODER}.mask_tokens")
FINAL_NORM = f"{_TRANSFORMER}.layer_norm_final_attn"
UPSCALING = (f"{_DECODER}.upscale_conv1", f"{_DECODER}.upscale_conv2")
UPSCALING_NORM = f"{_DECODER}.upscale_layer_norm"
HEADS = (
    f"{_DECODER}.output_hypernetworks_mlps",
    f"{_DECODER}.iou_prediction_head",
    f"{_DECODER}.pred_obj_score_head",
)


def block_path(index: int) -> str:
    """One block of the image encoder."""
    return f"{_BACKBONE}.blocks.{index}"


@dataclass(frozen=True)
class BlockNames:
    """One block: norm, attention, norm, MLP; where the width changes, a projection beside the attention."""

    path: str
    norms: tuple[str, str]
    attention: Attention
    projection: str
    mlp_in: str
    mlp_out: str

    @classmethod
    def of(cls, index: int, *, pooled: bool) -> BlockNames:
        path = block_path(index)
        exact = _POOLED if pooled else ALL_FOLDS
        attention = Attention(
            f"{path}.attn", ENCODER, (f"{path}.attn.qkv",), f"{path}.attn.proj", exact=exact
        )
        norms = f"{path}.layer_norm1", f"{path}.layer_norm2"
        return cls(path, norms, attention, f"{path}.proj", f"{path}.mlp.proj_in", f"{path}.mlp.proj_out")


@dataclass(frozen=True)
class DecoderLayerNames:
    """One two-way layer; its norms follow self-attention, tokens to image, MLP and image to tokens."""

    path: str
    attentions: tuple[Attention, Attention, Attention]
    norms: tuple[str, ...]
    mlp_in: str
    mlp_out: str

    @classmethod
    def of(cls, index: int) -> DecoderLayerNames:
        path = f"{_TRANSFORMER}.layers.{index}"
        attentions = (
            _attention(f"{path}.self_attn"),
            _attention(f"{path}.cross_attn_token_to_image", asks_image=True),
            _attention(f"{path}.cross_attn_image_to_token"),
        )
        norms = tuple(f"{path}.layer_norm{number}" for number in (1, 2, 3, 4))
        return cls(path, attentions, norms, f"{path}.mlp.proj_in", f"{path}.mlp.proj_out")


def _attention(path: str, *, asks_image: bool = False) -> Attention:
    projections = tuple(f"{path}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    return Attention(path, DECODER, projections, f"{path}.o_proj", asks_image)


FINAL_ATTENTION = _attention(f"{_TRANSFORMER}.final_attn_token_to_image", asks_image=True)
