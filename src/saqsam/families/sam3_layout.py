"""Names in the file of facebookresearch/sam3 (``sam3.pt``): the tracker's part, which lies in several places.

The image encoder is the detector's; the tracker has a neck of its own behind it, ``sam2_convs``.
"""

from __future__ import annotations

from saqsam.families.layout import Layout
from saqsam.families.sam2_layout import DECODER_PLACES, TIED, decoder_rules, head_mlps, point_embeddings

_VISION = "detector.backbone.vision_backbone"
_TRUNK, _LEVELS = f"{_VISION}.trunk", f"{_VISION}.sam2_convs"
_BACKBONE, _NECK = "vision_encoder.backbone", "vision_encoder.neck.fpn_layers"
_TRACKER = "tracker."
_LAYERS = "mask_decoder.transformer.layers.{i}.mlp"

_RULES: tuple[tuple[str, str], ...] = (
    (f"{_TRUNK}.patch_embed.proj.weight", f"{_BACKBONE}.embeddings.patch_embeddings.projection.weight"),
    (f"{_TRUNK}.ln_pre.{{x}}", f"{_BACKBONE}.layer_norm.{{x}}"),
    (f"{_TRUNK}.blocks.{{i}}.norm{{j}}.{{x}}", f"{_BACKBONE}.layers.{{i}}.layer_norm{{j}}.{{x}}"),
    (f"{_TRUNK}.blocks.{{i}}.attn.proj.{{x}}", f"{_BACKBONE}.layers.{{i}}.attention.o_proj.{{x}}"),
    (f"{_TRUNK}.blocks.{{i}}.mlp.fc{{j}}.{{x}}", f"{_BACKBONE}.layers.{{i}}.mlp.fc{{j}}.{{x}}"),
    (f"{_LEVELS}.0.dconv_2x2_0.{{x}}", f"{_NECK}.0.scale_layers.0.{{x}}"),
    (f"{_LEVELS}.0.dconv_2x2_1.{{x}}", f"{_NECK}.0.scale_layers.2.{{x}}"),
    (f"{_LEVELS}.1.dconv_2x2.{{x}}", f"{_NECK}.1.scale_layers.0.{{x}}"),
    (f"{_LEVELS}.{{i}}.conv_1x1.{{x}}", f"{_NECK}.{{i}}.proj1.{{x}}"),
    (f"{_LEVELS}.{{i}}.conv_3x3.{{x}}", f"{_NECK}.{{i}}.proj2.{{x}}"),
    (f"{_TRACKER}sam_{_LAYERS}.lin1.{{x}}", f"{_LAYERS}.proj_in.{{x}}"),
    (f"{_TRACKER}sam_{_LAYERS}.lin2.{{x}}", f"{_LAYERS}.proj_out.{{x}}"),
    *decoder_rules(_TRACKER),
)
_PROJECTIONS = tuple(f"{_BACKBONE}.layers.{{i}}.attention.{name}_proj.{{x}}" for name in ("q", "k", "v"))

SAM3_LAYOUT = Layout(
    marks=(f"{_VISION}.", f"{_TRACKER}sam_"),
    rules=_RULES,
    places=DECODER_PLACES,
    mlps=head_mlps(_TRACKER),
    twins=TIED,
    joined=point_embeddings(_TRACKER),
    fused=((f"{_TRUNK}.blocks.{{i}}.attn.qkv.{{x}}", _PROJECTIONS),),
    headed=((f"{_TRUNK}.pos_embed", f"{_BACKBONE}.embeddings.position_embeddings"),),
)
"""The table of positions has a row for a class token that there is none of; it is written as zeros."""

_DECODER = "mask_decoder."
_OTHERS = ("prompt_encoder.", "shared_image_embedding.", "no_memory_embedding")


def _in_transformers(encoder: str, tracker: str) -> dict[str, str]:
    """Beginnings where image encoder and neck lie after ``encoder``, all else after ``tracker``."""
    return {
        f"{encoder}detector_model.vision_encoder.backbone.": f"{_BACKBONE}.",
        f"{tracker}{_DECODER}": _DECODER,
        f"{encoder}tracker_neck.": "vision_encoder.neck.",
        **{f"{tracker}{name}": name for name in _OTHERS},
    }


SAM3_PLACES: tuple[dict[str, str], ...] = (
    _in_transformers("tracker_model.", "tracker_model."),
    _in_transformers("", "tracker_model."),
    _in_transformers("", "tracker_model.tracker_model."),
    {
        name: name
        for name in (
            f"{_TRUNK}.",
            f"{_TRACKER}sam_{_DECODER}",
            f"{_LEVELS}.",
            f"{_TRACKER}sam_prompt_encoder.",
            f"{_TRACKER}no_mem_embed",
        )
    },
)
"""What names of the tracker's tensors begin with in files of more than that, and what becomes of it: as
``save_pretrained`` of a tracker writes one; in a whole SAM 3 of ``transformers`` as on the hub, and as 5.23
saves it again; in a published file."""
SAM3_UNUSED = (
    r"vision_encoder\.neck\.fpn_layers\.3\..*"
    r"|detector\.backbone\.vision_backbone\.(sam2_convs\.3\..*|trunk\.blocks\.\d+\.attn\.freqs_cis)"
)
"""The neck's fourth level, which prompts never reach, and angles that follow from the configuration."""
