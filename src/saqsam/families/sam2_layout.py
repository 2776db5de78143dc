"""Names in the files of facebookresearch/sam2, image part."""

from __future__ import annotations

from saqsam.families.layout import Layout

_ENCODER, _BACKBONE = "image_encoder", "vision_encoder.backbone"
_DECODER, _OWN = "sam_mask_decoder", "mask_decoder"
_PROMPTS = "sam_prompt_encoder"

_ENCODER_RULES: tuple[tuple[str, str], ...] = (
    (f"{_ENCODER}.trunk.pos_embed", f"{_BACKBONE}.pos_embed"),
    (f"{_ENCODER}.trunk.pos_embed_window", f"{_BACKBONE}.pos_embed_window"),
    (f"{_ENCODER}.trunk.patch_embed.proj.{{x}}", f"{_BACKBONE}.patch_embed.projection.{{x}}"),
    (f"{_ENCODER}.trunk.blocks.{{i}}.norm{{j}}.{{x}}", f"{_BACKBONE}.blocks.{{i}}.layer_norm{{j}}.{{x}}"),
    (f"{_ENCODER}.trunk.blocks.{{i}}.attn.qkv.{{x}}", f"{_BACKBONE}.blocks.{{i}}.attn.qkv.{{x}}"),
    (f"{_ENCODER}.trunk.blocks.{{i}}.attn.proj.{{x}}", f"{_BACKBONE}.blocks.{{i}}.attn.proj.{{x}}"),
    (f"{_ENCODER}.trunk.blocks.{{i}}.proj.{{x}}", f"{_BACKBONE}.blocks.{{i}}.proj.{{x}}"),
    (f"{_ENCODER}.neck.convs.{{i}}.conv.{{x}}", "vision_encoder.neck.convs.{i}.{x}"),
)
_DECODER_RULES: tuple[tuple[str, str], ...] = (
    ("no_mem_embed", "no_memory_embedding"),
    (
        f"{_PROMPTS}.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (f"{_PROMPTS}.{{embedding}}_embed.weight", "prompt_encoder.{embedding}_embed.weight"),
    (f"{_PROMPTS}.mask_downscaling.0.{{x}}", "prompt_encoder.mask_embed.conv1.{x}"),
    (f"{_PROMPTS}.mask_downscaling.1.{{x}}", "prompt_encoder.mask_embed.layer_norm1.{x}"),
    (f"{_PROMPTS}.mask_downscaling.3.{{x}}", "prompt_encoder.mask_embed.conv2.{x}"),
    (f"{_PROMPTS}.mask_downscaling.4.{{x}}", "prompt_encoder.mask_embed.layer_norm2.{x}"),
    (f"{_PROMPTS}.mask_downscaling.6.{{x}}", "prompt_encoder.mask_embed.conv3.{x}"),
    (f"{_DECODER}.{{token}}.weight", f"{_OWN}.{{token}}.weight"),
    (f"{_DECODER}.conv_s{{j}}.{{x}}", f"{_OWN}.conv_s{{j}}.{{x}}"),
    (
        f"{_DECODER}.transformer.layers.{{i}}.{{attention}}.{{projection}}_proj.{{x}}",
        f"{_OWN}.transformer.layers.{{i}}.{{attention}}.{{projection}}_proj.{{x}}",
    ),
    (
        f"{_DECODER}.transformer.layers.{{i}}.{{attention}}.out_proj.{{x}}",
        f"{_OWN}.transformer.layers.{{i}}.{{attention}}.o_proj.{{x}}",
    ),
    (
        f"{_DECODER}.transformer.layers.{{i}}.norm{{j}}.{{x}}",
        f"{_OWN}.transformer.layers.{{i}}.layer_norm{{j}}.{{x}}",
    ),
    (
        f"{_DECODER}.transformer.final_attn_token_to_image.{{projection}}_proj.{{x}}",
        f"{_OWN}.transformer.final_attn_token_to_image.{{projection}}_proj.{{x}}",
    ),
    (
        f"{_DECODER}.transformer.final_attn_token_to_image.out_proj.{{x}}",
        f"{_OWN}.transformer.final_attn_token_to_image.o_proj.{{x}}",
    ),
    (f"{_DECODER}.transformer.norm_final_attn.{{x}}", f"{_OWN}.transformer.layer_norm_final_attn.{{x}}"),
    (f"{_DECODER}.output_upscaling.0.{{x}}", f"{_OWN}.upscale_conv1.{{x}}"),
    (f"{_DECODER}.output_upscaling.1.{{x}}", f"{_OWN}.upscale_layer_norm.{{x}}"),
    (f"{_DECODER}.output_upscaling.3.{{x}}", f"{_OWN}.upscale_conv2.{{x}}"),
)
_HEADS = ("iou_prediction_head", "pred_obj_score_head", "output_hypernetworks_mlps.{i}")


def decoder_rules(before: str = "") -> tuple[tuple[str, str], ...]:
    """Of prompt encoder and mask decoder, but for MLPs, in files that put something before their names."""
    return tuple((f"{before}{official}", new) for official, new in _DECODER_RULES)


def head_mlps(before: str = "") -> tuple[tuple[str, str], ...]:
    """Of the heads, likewise."""
    return tuple((f"{before}{_DECODER}.{head}", f"{_OWN}.{head}") for head in _HEADS)


def point_embeddings(before: str = "") -> tuple[tuple[str, str], ...]:
    """The embeddings of kinds of points, which ``transformers`` keeps in one, likewise."""
    return ((f"{before}{_PROMPTS}.point_embeddings.{{i}}.weight", "prompt_encoder.point_embed.weight"),)


TIED = (
    ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),
)
DECODER_PLACES = {
    "token": r"obj_score_token|iou_token|mask_tokens",
    "embedding": r"not_a_point|no_mask",
    "attention": r"self_attn|cross_attn_token_to_image|cross_attn_image_to_token",
    "projection": r"q|k|v",
}
SAM2_LAYOUT = Layout(
    marks=("image_encoder.trunk.", "sam_mask_decoder."),
    rules=(*_ENCODER_RULES, *decoder_rules()),
    places=DECODER_PLACES,
    mlps=(
        (f"{_ENCODER}.trunk.blocks.{{i}}.mlp", f"{_BACKBONE}.blocks.{{i}}.mlp"),
        (f"{_DECODER}.transformer.layers.{{i}}.mlp", f"{_OWN}.transformer.layers.{{i}}.mlp"),
        *head_mlps(),
    ),
    twins=TIED,
    joined=point_embeddings(),
    wrapper="model",
)
"""Memory of earlier frames, which only video needs, has no place here: its tensors are left out."""
