"""A SAM 2's sizes, read from the shapes of its tensors and a table of the published models.

Widths, depths and stages follow from shapes. Windows, blocks with global attention and the number of heads do
not: they are looked up by width and depth. Nor does the size of the input, which is 1024 in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saqsam.families.record import Naming, Parts, Shapes
from saqsam.families.sam_sizes import count_of

_SIDE, _PATCH, _HEAD_WIDTH = 1024, 16, 32
_BACKBONE = "vision_encoder.backbone"
_LAYERS = "mask_decoder.transformer.layers."


@dataclass(frozen=True)
class _Published:
    """What shapes do not tell, by stage but for the numbers of blocks with global attention."""

    name: str
    heads: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]


_TABLE = {
    (96, 12): _Published("hiera_tiny", (1, 2, 4, 8), (8, 4, 14, 7), (5, 7, 9)),
    (96, 16): _Published("hiera_small", (1, 2, 4, 8), (8, 4, 14, 7), (7, 10, 13)),
    (112, 24): _Published("hiera_base_plus", (2, 4, 8, 16), (8, 4, 14, 7), (12, 16, 20)),
    (144, 48): _Published("hiera_large", (2, 4, 8, 16), (8, 4, 16, 8), (23, 33, 43)),
}
"""By width of the first stage and number of blocks; the same for SAM 2 and SAM 2.1."""


def size_name(shapes: Shapes) -> str | None:
    """``hiera_tiny`` ... ``hiera_large`` where the encoder has that one's width and depth, else ``None``."""
    width = shapes.get(f"{_BACKBONE}.patch_embed.projection.weight", (0,))[:1]
    published = _TABLE.get((width[0] if width else 0, _depth(shapes)))
    return None if published is None else published.name


def _depth(shapes: Shapes) -> int:
    return count_of(shapes, r"vision_encoder\.backbone\.blocks\.(\d+)\..*")


def _parts(shapes: Shapes, told: Mapping[str, Mapping[str, Any]]) -> Parts:
    try:
        parts = _from_shapes(shapes, told)
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError("tensors have too few dimensions or a dimension of 0") from error
    found = {name: {**part, **told.get(name, {})} for name, part in parts.items()}
    backbone = told.get("vision_config", {}).get("backbone_config", {})
    found["vision_config"]["backbone_config"] = {
        **parts["vision_config"]["backbone_config"],
        **(backbone if isinstance(backbone, Mapping) else {}),
    }
    return found


def _from_shapes(shapes: Shapes, told: Mapping[str, Mapping[str, Any]]) -> Parts:
    side = told.get("prompt_encoder_config", {}).get("image_size", _SIDE)
    if type(side) is not int:
        raise ValueError(f"it says of itself that its images have {side!r:.40} pixels")
    parts = decoder_parts(shapes)
    backbone = _backbone(shapes, side, told_windows(told))
    parts["vision_config"] = {
        "backbone_config": backbone,
        "backbone_channel_list": backbone["embed_dim_per_stage"][::-1],
        "backbone_feature_sizes": [[side // scale] * 2 for scale in (4, 8, 16)],
        "fpn_hidden_size": shapes["vision_encoder.neck.convs.0.weight"][0],
    }
    parts["prompt_encoder_config"] |= {"image_size": side, "patch_size": _PATCH}
    return parts


def decoder_parts(shapes: Shapes) -> Parts:
    """What shapes tell of prompt encoder and mask decoder."""
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    return {
        "prompt_encoder_config": {
            "hidden_size": shapes["prompt_encoder.mask_embed.conv3.weight"][0],
            "mask_input_channels": shapes["prompt_encoder.mask_embed.conv3.weight"][1],
            "num_point_embeddings": shapes["prompt_encoder.point_embed.weight"][0],
        },
        "mask_decoder_config": {
            "hidden_size": hidden,
            "num_hidden_layers": count_of(shapes, r"mask_decoder\.transformer\.layers\.(\d+)\..*"),
            "mlp_dim": shapes[f"{_LAYERS}0.mlp.proj_in.weight"][0],
            "num_attention_heads": max(1, hidden // _HEAD_WIDTH),
            "attention_downsample_rate": hidden
            // shapes[f"{_LAYERS}0.cross_attn_token_to_image.q_proj.weight"][0],
            "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
            "iou_head_depth": count_of(shapes, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight")
            + 2,
            "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
        },
    }


def told_windows(told: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a file says itself what shapes do not tell."""
    backbone = told.get("vision_config", {}).get("backbone_config")
    return isinstance(backbone, Mapping) and "window_size_per_stage" in backbone


def _backbone(shapes: Shapes, side: int, told: bool) -> dict[str, Any]:
    width = shapes[f"{_BACKBONE}.patch_embed.projection.weight"][0]
    depth = _depth(shapes)
    widths = [shapes[f"{_BACKBONE}.blocks.{index}.attn.proj.weight"][0] for index in range(depth)]
    stages = sorted(set(widths))
    if not widths or widths != sorted(widths):
        raise ValueError("its encoder has no blocks, or they grow narrower")
    first = shapes[f"{_BACKBONE}.blocks.0.mlp.proj_in.weight"][0]
    found: dict[str, Any] = {
        "hidden_size": width,
        "image_size": [side, side],
        "embed_dim_per_stage": stages,
        "blocks_per_stage": [widths.count(stage) for stage in stages],
        "mlp_ratio": first / widths[0],
        "window_positional_embedding_background_size": list(shapes[f"{_BACKBONE}.pos_embed"][2:]),
    }
    published = _TABLE.get((width, depth))
    if published is None:
        if told:
            return found
        raise ValueError(
            f"its encoder begins with {width} channels and has {depth} blocks, which no published SAM 2 has; "
            "its windows and heads are not in its shapes and need a config.json"
        )
    window = shapes[f"{_BACKBONE}.pos_embed_window"][2]
    if window != published.windows[0] and not told:
        raise ValueError(f"its first windows are {window} tokens wide, those of {published.name} are 8")
    return {
        **found,
        "num_attention_heads": published.heads[0],
        "num_attention_heads_per_stage": list(published.heads),
        "window_size_per_stage": list(published.windows),
        "global_attention_blocks": list(published.global_blocks),
    }


SAM2_NAMING = Naming(
    marks=tuple(f"{_BACKBONE}.{part}" for part in ("blocks.", "patch_embed.", "pos_embed")),
    size_of=size_name,
    parts=_parts,
    files=r"sam2(?:\.1)?_(hiera_(?:tiny|small|base_plus|large))",
    give="Give the weights of a SAM 2 or 2.1, or the directory with its config.json",
)
