"""Checkpoints that are easily taken for a SAM's: how to tell them, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DETECTOR = "a SAM 3's detector alone, which finds things by text"
# Beginning of a tensor's name that only this family has -> the family.
_MARKS = (
    ("tracker.model.interactive_sam_", "a SAM 3.1"),
    ("detector.backbone.vision_backbone.", _DETECTOR),
    ("detector_model.vision_encoder.", _DETECTOR),
    ("detr_decoder.", _DETECTOR),
    ("vision_encoder.backbone.timm_model.", "EdgeTAM"),
    ("image_encoder.patch_embed.seq.", "MobileSAM (TinyViT encoder)"),
    ("layer1.0.conv1.", "a ResNet"),
    ("backbone.0.body.", "a detector of the DETR family"),
    ("blocks.0.attn.qkv.", "a plain vision transformer"),
)


# Of a saqsam model's own state_dict: the grids of its quantizers.
_QUANTIZER = re.compile(r"(?:.*\.)?(?:weight_quantizer|input_quantizer|quantizers\.\w+)\._grid\.\w+")


def foreign_family(names: Iterable[str], *, anywhere: bool = False) -> str | None:
    """The family of models that tensor names belong to, where it is a known one that is no SAM.

    Args:
        names: of its tensors.
        anywhere: a mark may also follow a dot, where something unknown stands before all names.
    """
    names = list(names)
    for mark, kind in _MARKS:
        if any(name.startswith(mark) or (anywhere and f".{mark}" in name) for name in names):
            return kind
    return None


def is_quantized_state(names: Iterable[str]) -> bool:
    """Whether tensor names are those of ``Sam.model.state_dict()`` of a quantized model."""
    return any(_QUANTIZER.fullmatch(name) for name in names)
