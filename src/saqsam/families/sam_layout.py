"""Names in the files of facebookresearch/segment-anything."""

from __future__ import annotations

from saqsam.families.layout import Layout

RULES: tuple[tuple[str, str], ...] = (
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.{x}", "vision_encoder.patch_embed.projection.{x}"),
    ("image_encoder.blocks.{i}.norm{j}.{x}", "vision_encoder.layers.{i}.layer_norm{j}.{x}"),
    ("image_encoder.blocks.{i}.attn.qkv.{x}", "vision_encoder.layers.{i}.attn.qkv.{x}"),
    ("image_encoder.blocks.{i}.attn.proj.{x}", "vision_encoder.layers.{i}.attn.proj.{x}"),
    ("image_encoder.blocks.{i}.attn.rel_pos_{axis}", "vision_encoder.layers.{i}.attn.rel_pos_{axis}"),
    ("image_encoder.blocks.{i}.mlp.lin{j}.{x}", "vision_encoder.layers.{i}.mlp.lin{j}.{x}"),
    ("image_encoder.neck.0.weight", "vision_encoder.neck.conv1.weight"),
    ("image_encoder.neck.1.{x}", "vision_encoder.neck.layer_norm1.{x}"),
    ("image_encoder.neck.2.weight", "vision_encoder.neck.conv2.weight"),
    ("image_encoder.neck.3.{x}", "vision_encoder.neck.layer_norm2.{x}"),
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings.{i}.weight", "prompt_encoder.point_embed.{i}.weight"),
    ("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    ("prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    ("prompt_encoder.mask_downscaling.0.{x}", "prompt_encoder.mask_embed.conv1.{x}"),
    ("prompt_encoder.mask_downscaling.1.{x}", "prompt_encoder.mask_embed.layer_norm1.{x}"),
    ("prompt_encoder.mask_downscaling.3.{x}", "prompt_encoder.mask_embed.conv2.{x}"),
    ("prompt_encoder.mask_downscaling.4.{x}", "prompt_encoder.mask_embed.layer_norm2.{x}"),
    ("prompt_encoder.mask_downscaling.6.{x}", "prompt_encoder.mask_embed.conv3.{x}"),
    ("mask_decoder.{token}.weight", "mask_decoder.{token}.weight"),
    (
        "mask_decoder.transformer.layers.{i}.{attention}.{projection}_proj.{x}",
        "mask_decoder.transformer.layers.{i}.{attention}.{projection}_proj.{x}",
    ),
    (
        "mask_decoder.transformer.layers.{i}.norm{j}.{x}",
        "mask_decoder.transformer.layers.{i}.layer_norm{j}.{x}",
    ),
    (
        "mask_decoder.transformer.layers.{i}.mlp.lin{j}.{x}",
        "mask_decoder.transformer.layers.{i}.mlp.lin{j}.{x}",
    ),
    (
        "mask_decoder.transformer.final_attn_token_to_image.{projection}_proj.{x}",
        "mask_decoder.transformer.final_attn_token_to_image.{projection}_proj.{x}",
    ),
    ("mask_decoder.transformer.norm_final_attn.{x}", "mask_decoder.transformer.layer_norm_final_attn.{x}"),
    ("mask_decoder.output_upscaling.0.{x}", "mask_decoder.upscale_conv1.{x}"),
    ("mask_decoder.output_upscaling.1.{x}", "mask_decoder.upscale_layer_norm.{x}"),
    ("mask_decoder.output_upscaling.3.{x}", "mask_decoder.upscale_conv2.{x}"),
)

MLPS = tuple(
    (path, path)
    for path in ("mask_decoder.iou_prediction_head", "mask_decoder.output_hypernetworks_mlps.{i}")
)
PLACES = {
    "token": r"iou_token|mask_tokens",
    "attention": r"self_attn|cross_attn_token_to_image|cross_attn_image_to_token",
    "projection": r"q|k|v|out",
}
TIED = (
    ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),
)
SAM_LAYOUT = Layout(marks=("image_encoder.",), rules=RULES, places=PLACES, mlps=MLPS, twins=TIED)
