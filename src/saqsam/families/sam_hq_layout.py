"""Names in the files of SysCV/sam-hq, and the sizes that their shapes tell: SAM's, and what SAM-HQ adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from saqsam.families.record import Parts, Shapes
from saqsam.families.sam_layout import MLPS, RULES, SAM_LAYOUT
from saqsam.families.sam_sizes import SAM_NAMING, parts_from_shapes

_DECODER = "mask_decoder"
_RULES = (
    (f"{_DECODER}.hf_token.weight", f"{_DECODER}.hq_token.weight"),
    (f"{_DECODER}.compress_vit_feat.0.{{x}}", f"{_DECODER}.compress_vit_conv1.{{x}}"),
    (f"{_DECODER}.compress_vit_feat.1.{{x}}", f"{_DECODER}.compress_vit_norm.{{x}}"),
    (f"{_DECODER}.compress_vit_feat.3.{{x}}", f"{_DECODER}.compress_vit_conv2.{{x}}"),
    (f"{_DECODER}.embedding_encoder.0.{{x}}", f"{_DECODER}.encoder_conv1.{{x}}"),
    (f"{_DECODER}.embedding_encoder.1.{{x}}", f"{_DECODER}.encoder_norm.{{x}}"),
    (f"{_DECODER}.embedding_encoder.3.{{x}}", f"{_DECODER}.encoder_conv2.{{x}}"),
    (f"{_DECODER}.embedding_maskfeature.0.{{x}}", f"{_DECODER}.mask_conv1.{{x}}"),
    (f"{_DECODER}.embedding_maskfeature.1.{{x}}", f"{_DECODER}.mask_norm.{{x}}"),
    (f"{_DECODER}.embedding_maskfeature.3.{{x}}", f"{_DECODER}.mask_conv2.{{x}}"),
)
HQ_LAYOUT = replace(
    SAM_LAYOUT,
    marks=(f"{_DECODER}.hf_",),
    rules=(*RULES, *_RULES),
    mlps=(*MLPS, (f"{_DECODER}.hf_mlp", f"{_DECODER}.hq_mask_mlp")),
)


def _parts(shapes: Shapes, told: Mapping[str, Mapping[str, Any]]) -> Parts:
    parts = parts_from_shapes(shapes, told)
    early = shapes[f"{_DECODER}.compress_vit_conv1.weight"]
    parts["mask_decoder_config"].setdefault("vit_dim", early[0] if early else 0)
    return parts


HQ_NAMING = replace(
    SAM_NAMING,
    marks=(f"{_DECODER}.hq_",),
    parts=_parts,
    files=r"sam_hq_(vit_[blh])",
    give="Give the weights of a SAM-HQ ViT-B, ViT-L or ViT-H, or of one with other sizes",
)
