"""A SAM 3's sizes, read from the shapes of its tensors and a table of the one published model.

Widths and depths follow from shapes. Windows, blocks with global attention and the number of heads do not:
they are looked up by width and depth. Nor does the size of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from saqsam.families.record import Naming, Parts, Shapes
from saqsam.families.sam2_sizes import decoder_parts
from saqsam.families.sam3_config import FACTORS
from saqsam.families.sam3_layout import SAM3_PLACES, SAM3_UNUSED
from saqsam.families.sam_sizes import count_of

_SIDE = 1008
_BACKBONE = "vision_encoder.backbone"
_TABLE: dict[tuple[int, int], dict[str, Any]] = {
    (1024, 32): {
        "num_attention_heads": 16,
        "window_size": 24,
        "global_attn_indexes": [7, 15, 23, 31],
        "layer_norm_eps": 1e-5,
    },
}
"""By width and number of blocks, what shapes do not tell; the norms are those of the published code, where
``transformers`` has 1e-6."""


def size_name(shapes: Shapes) -> str | None:
    """``sam3`` where the encoder has that one's width and depth, else ``None``."""
    width = shapes.get(f"{_BACKBONE}.layer_norm.weight", (0,))
    return "sam3" if ((width or (0,))[0], _depth(shapes)) in _TABLE else None


def _depth(shapes: Shapes) -> int:
    return count_of(shapes, r"vision_encoder\.backbone\.layers\.(\d+)\..*")


def _parts(shapes: Shapes, told: Mapping[str, Mapping[str, Any]]) -> Parts:
    own = told.get("vision_config", {}).get("backbone_config", {})
    own = own if isinstance(own, Mapping) else {}
    side = told.get("prompt_encoder_config", {}).get("image_size", _SIDE)
    if type(side) is not int:
        raise ValueError(f"it says of itself that its images have {side!r:.40} pixels")
    try:
        decoder, backbone = decoder_parts(shapes), _backbone(shapes, side, own)
        neck = shapes["vision_encoder.neck.fpn_layers.0.proj1.weight"][0]
        grid = side // backbone["patch_size"]
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError("tensors have too few dimensions or a dimension of 0") from error
    decoder["prompt_encoder_config"] |= {"image_size": side, "patch_size": backbone["patch_size"]}
    vision = {
        "fpn_hidden_size": neck,
        "scale_factors": list(FACTORS),
        "backbone_feature_sizes": [[int(factor) * grid] * 2 for factor in FACTORS],
    }
    found: Parts = {name: {**part, **told.get(name, {})} for name, part in decoder.items()}
    found["vision_config"] = {
        **vision,
        **told.get("vision_config", {}),
        "backbone_config": {**backbone, **own},
    }
    return found


def _backbone(shapes: Shapes, side: int, told: Mapping[str, Any]) -> dict[str, Any]:
    kernel = shapes[f"{_BACKBONE}.embeddings.patch_embeddings.projection.weight"]
    width, patch = kernel[0], kernel[2]
    depth = _depth(shapes)
    published = _TABLE.get((width, depth), {})
    if not published and "window_size" not in told:
        raise ValueError(
            f"its encoder has {width} channels and {depth} blocks, which no published SAM 3 has; its windows "
            "and heads are not in its shapes and need a config.json"
        )
    positions = shapes[f"{_BACKBONE}.embeddings.position_embeddings"][1]
    return {
        "hidden_size": width,
        "intermediate_size": shapes[f"{_BACKBONE}.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": depth,
        "image_size": side,
        "patch_size": patch,
        "pretrain_image_size": math.isqrt(positions) * patch,
        **published,
    }


SAM3_NAMING = Naming(
    marks=tuple(f"{_BACKBONE}.{part}" for part in ("layers.", "embeddings.", "layer_norm.")),
    size_of=size_name,
    parts=_parts,
    files=r"(sam3)",
    give="Give the weights of a SAM 3, or the directory with its config.json",
    places=SAM3_PLACES,
    unused=SAM3_UNUSED,
)
