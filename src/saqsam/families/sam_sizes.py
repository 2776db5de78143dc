"""A SAM's sizes, read from the shapes of its tensors.

Nearly everything about a SAM follows from shapes: widths, depths, the image size from the positional
embedding and the patch, heads from the width of a relative-position row, windowed and global blocks from the
number of those rows. Two things do not: activation functions, which no published SAM changes, and the
number of decoder heads, for which :func:`parts_from_shapes` takes the published 32 channels a head unless
told otherwise.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from saqsam.families.record import Naming, Parts, Shapes

# Embedding width of the image encoder -> name and number of heads of the published models.
PUBLISHED = {768: ("vit_b", 12), 1024: ("vit_l", 16), 1280: ("vit_h", 16)}
_DECODER_HEAD_WIDTH = 32
_LAYER = "vision_encoder.layers.{}."

logger = logging.getLogger("saqsam")


def size_name(shapes: Shapes) -> str | None:
    """``vit_b``, ``vit_l`` or ``vit_h`` where the encoder has that one's embedding width, else None."""
    width = shapes.get("vision_encoder.patch_embed.projection.weight", (0,))[:1]
    return PUBLISHED[width[0]][0] if width and width[0] in PUBLISHED else None


def parts_from_shapes(shapes: Shapes, told: Mapping[str, Mapping[str, Any]] | None = None) -> Parts:
    """The sizes of a SAM with tensors of these shapes.

    Args:
        shapes: ``transformers`` name -> shape.
        told: values that win over the derived ones, as ``{"mask_decoder_config": {...}, ...}``.

    Returns:
        The fields of a ``SamConfig``, for :func:`saqsam.checkpoints.config.checked_config` to check.

    Raises:
        KeyError: a tensor that the sizes are read from is missing; its argument is the name.
        ValueError: shapes that contradict each other.
    """
    told = told or {}
    try:
        parts = {
            "vision_config": _vision(shapes),
            "prompt_encoder_config": _prompt_encoder(shapes),
            "mask_decoder_config": _mask_decoder(shapes, told.get("mask_decoder_config", {})),
        }
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError("tensors have too few dimensions or a dimension of 0") from error
    return {name: {**part, **told.get(name, {})} for name, part in parts.items()}


def _vision(shapes: Shapes) -> dict[str, Any]:
    width, channels, patch, _ = _four(shapes, "vision_encoder.patch_embed.projection.weight")
    grid = _four(shapes, "vision_encoder.pos_embed")[1]
    depth = count_of(shapes, r"vision_encoder\.layers\.(\d+)\..*")
    rows = [shapes.get(f"{_LAYER.format(i)}attn.rel_pos_h") for i in range(depth)]
    relative = [row for row in rows if row is not None]
    windowed = sorted({length for length, _ in relative} - {2 * grid - 1})
    if len(windowed) > 1 or len(relative) not in (0, depth):
        raise ValueError("its blocks have relative positions of more than two lengths")
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": grid * patch,
        "num_hidden_layers": depth,
        "num_attention_heads": _vision_heads(width, relative),
        "mlp_dim": shapes[f"{_LAYER.format(0)}mlp.lin1.weight"][0],
        "qkv_bias": f"{_LAYER.format(0)}attn.qkv.bias" in shapes,
        "use_rel_pos": bool(relative),
        # Where every block is global, the window is never used.
        "window_size": (windowed[0] + 1) // 2 if windowed else grid,
        "global_attn_indexes": [i for i, row in enumerate(rows) if row is None or row[0] == 2 * grid - 1],
        "output_channels": shapes["vision_encoder.neck.conv1.weight"][0],
        "num_pos_feats": shapes["shared_image_embedding.positional_embedding"][1],
    }


def _vision_heads(width: int, relative: list[tuple[int, ...]]) -> int:
    if relative:
        if width % relative[0][1]:
            raise ValueError(f"width {width} is no multiple of the {relative[0][1]} channels of a head")
        return width // relative[0][1]
    if width not in PUBLISHED:
        raise ValueError("without relative positions its shapes do not tell the number of heads")
    return PUBLISHED[width][1]


def _prompt_encoder(shapes: Shapes) -> dict[str, Any]:
    patch = _four(shapes, "vision_encoder.patch_embed.projection.weight")[2]
    hidden, mask_channels, *_ = _four(shapes, "prompt_encoder.mask_embed.conv3.weight")
    return {
        "hidden_size": hidden,
        "mask_input_channels": mask_channels,
        "num_point_embeddings": count_of(shapes, r"prompt_encoder\.point_embed\.(\d+)\.weight"),
        "image_size": _four(shapes, "vision_encoder.pos_embed")[1] * patch,
        "patch_size": patch,
    }


def _mask_decoder(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    layers = "mask_decoder.transformer.layers."
    return {
        "hidden_size": hidden,
        "num_hidden_layers": count_of(shapes, r"mask_decoder\.transformer\.layers\.(\d+)\..*"),
        "mlp_dim": shapes[f"{layers}0.mlp.lin1.weight"][0],
        "num_attention_heads": told.get("num_attention_heads") or _decoder_heads(hidden),
        "attention_downsample_rate": hidden
        // shapes[f"{layers}0.cross_attn_token_to_image.q_proj.weight"][0],
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_depth": count_of(shapes, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight") + 2,
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
    }


def _decoder_heads(hidden: int) -> int:
    heads = max(1, hidden // _DECODER_HEAD_WIDTH)
    if hidden != 256:
        logger.warning(
            "the number of decoder heads is not in the file; taking %d, %d channels each as published",
            heads,
            hidden // heads,
        )
    return heads


def _four(shapes: Shapes, name: str) -> tuple[int, int, int, int]:
    shape = shapes[name]
    if len(shape) != 4:
        raise ValueError(f"tensor '{name}' has shape {shape}, expected four dimensions")
    return shape[0], shape[1], shape[2], shape[3]


def count_of(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that ``pattern`` captures in any name."""
    found = [int(match[1]) for match in (re.fullmatch(pattern, name) for name in shapes) if match]
    count = max(found, default=-1) + 1
    if count > len(shapes):
        raise ValueError(f"one of its {len(shapes)} tensors is numbered {count - 1}")
    return count


SAM_NAMING = Naming(
    marks=(),
    size_of=size_name,
    parts=parts_from_shapes,
    files=r"sam_(vit_[blh])(?:_[0-9a-f]{6})?",
    give="Give the weights of a SAM ViT-B, ViT-L or ViT-H, or of one with other sizes",
)
