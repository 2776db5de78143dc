"""Checkpoints that are easily taken for a SAM's: how to tell them, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable

# Beginning of a tensor's name that only this family has -> the family.
_MARKS = (
    ("image_encoder.trunk.", "SAM 2"),
    ("sam_mask_decoder.", "SAM 2"),
    ("vision_encoder.backbone.", "SAM 2 (or a later one)"),
    ("mask_decoder.hf_token.", "HQ-SAM"),
    ("mask_decoder.hq_token.", "HQ-SAM"),
    ("image_encoder.patch_embed.seq.", "MobileSAM (TinyViT encoder)"),
    ("layer1.0.conv1.", "a ResNet"),
    ("backbone.0.body.", "a detector of the DETR family"),
    ("blocks.0.attn.qkv.", "a plain vision transformer"),
)


def foreign_family(names: Iterable[str]) -> str | None:
    """The family of models that tensor names belong to, where it is a known one that is no SAM."""
    names = list(names)
    return next((kind for mark, kind in _MARKS if any(name.startswith(mark) for name in names)), None)
