"""SAM-HQ (Ke et al. 2023, arXiv:2306.01567): SAM with one more output token and features of its own for it.

What is quantized is what is quantized of SAM; the layers that SAM-HQ adds stay float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import SamHQConfig

from saqsam.families.config_checks import is_count, is_flag
from saqsam.families.loading_option import LoadingOption
from saqsam.families.record import ConfigRules, FloatPart, Modules, Sizes
from saqsam.families.sam import HEAD, PROMPT, SAM, sam_float_parts
from saqsam.families.sam_config import RULES, contradiction, sam_sizes
from saqsam.families.sam_hq_layout import HQ_LAYOUT, HQ_NAMING
from saqsam.families.sam_names import SamNames

_ONCE = "features of the image for SAM-HQ's own mask, once for an image: transposed convolutions"
_LARGE = "SAM-HQ's convolutions at mask resolution, after the last quantized layer, and their norm"


def _float_parts(model: Any) -> tuple[FloatPart, ...]:
    own = [FloatPart(path, reason) for reason, paths in _OWN.items() for path in paths]
    return (*sam_float_parts(model), *own)


_OWN: Mapping[str, tuple[str, ...]] = {
    PROMPT: (SamNames.hq_token,),
    HEAD: (SamNames.hq_head,),
    _ONCE: SamNames.hq_image,
    _LARGE: SamNames.hq_large,
}


def _problem(config: Any) -> str | None:
    width, told = config.vision_config.hidden_size, config.mask_decoder_config.vit_dim
    if width != told:
        return f"the encoder's width is {width}, and the decoder expects {told} channels of early features"
    if not config.vision_config.global_attn_indexes:
        return "no block has global attention, and the decoder reads what the first such block makes"
    return contradiction(config)


def _hq_sizes(config: Any) -> Sizes:
    sizes = sam_sizes(config)
    _, *grid = sizes.embedding[0]
    return replace(sizes, embedding=(*sizes.embedding, (int(config.vision_config.hidden_size), *grid)))


_DECODER = ("mask_decoder_config",)
_RULES = ConfigRules(
    fields={
        **RULES.fields,
        _DECODER: {**RULES.fields[_DECODER], "vit_dim": is_count, "hq_token_only": is_flag},
    },
    published=RULES.published,
    problem=_problem,
    depth=RULES.depth,
)


def _modules() -> Modules:
    from saqsam.families.sam_hq_modules import HQ_MODULES

    return HQ_MODULES


SAM_HQ = replace(
    SAM,
    name="SAM-HQ",
    model_types=("sam_hq",),
    modules=_modules,
    config_class=SamHQConfig,
    config=_RULES,
    sizes=_hq_sizes,
    float_parts=_float_parts,
    layout=HQ_LAYOUT,
    naming=HQ_NAMING,
    shapes=None,
    calls=None,
    options={"hq_token_only": LoadingOption(_DECODER, {"": True, "true": True, "false": False})},
)
"""The same numbers of weights and activations as SAM's B, L and H."""
