"""SAM 3's tracker on images (Carion et al. 2025), as ``transformers.Sam3TrackerModel`` lays it out.

It answers clicks, boxes and masks as SAM 2 does, with SAM 2's prompt encoder and mask decoder behind another
image encoder. What SAM 3 has beside it, to find things by text, is not part of it.

Quantized is what is of SAM 2; in the image encoder queries and keys after they were turned by positions.
"""

from __future__ import annotations

from typing import Any

from transformers import Sam3TrackerConfig

from saqsam.families import sam2_names
from saqsam.families import sam3_names as names
from saqsam.families.licence import SAM_LICENCE
from saqsam.families.record import (
    CONVOLUTION,
    ENCODER,
    MLP_IN,
    MLP_OUT,
    Attention,
    Family,
    FloatPart,
    Layer,
    Modules,
)
from saqsam.families.sam2 import (
    DECODER_STEPS,
    NORM,
    POSITION,
    biases,
    decoder_float_parts,
    decoder_rows,
    with_layers,
)
from saqsam.families.sam2_layout import TIED
from saqsam.families.sam3_config import SAM3_RULES, sam3_sizes
from saqsam.families.sam3_layout import SAM3_LAYOUT
from saqsam.families.sam3_sizes import SAM3_NAMING

_FIRST = "first layer: reads pixels, 0.1 % of the multiplications"
_SCALE = "enlarges the tokens for a finer level, once for an image: 2x2 transposed convolution"


def _blocks(model: Any) -> list[names.BlockNames]:
    return [names.BlockNames.of(index) for index in range(len(model.vision_encoder.backbone.layers))]


def _rows(model: Any) -> tuple[Layer | Attention, ...]:
    rows: list[Layer | Attention] = []
    for block in _blocks(model):
        rows += with_layers(block.attention)
        rows += [Layer(block.mlp_in, ENCODER, MLP_IN), Layer(block.mlp_out, ENCODER, MLP_OUT)]
    convolutions = (*names.NECK_CONVOLUTIONS, *sam2_names.FEATURE_CONVOLUTIONS)
    rows += [Layer(path, ENCODER, CONVOLUTION) for path in convolutions]
    return (*rows, *decoder_rows(model))


def _float_parts(model: Any) -> tuple[FloatPart, ...]:
    parts = [FloatPart(names.POSITIONS, POSITION), FloatPart(names.PATCHES, _FIRST)]
    parts.append(FloatPart(names.FIRST_NORM, NORM))
    for block in _blocks(model):
        parts += [FloatPart(path, NORM) for path in block.norms]
    parts += [FloatPart(path, _SCALE) for path in names.SCALE_LAYERS]
    return (*parts, *decoder_float_parts(model), *biases(_rows(model)))


_FLOAT_STEPS = (
    FloatPart("vision_encoder attention", "turning of queries and keys, softmax, GELU, residual sums"),
    *DECODER_STEPS,
)


def _modules() -> Modules:
    from saqsam.families.sam3_modules import SAM3_MODULES

    return SAM3_MODULES


SAM3 = Family(
    name="SAM 3",
    model_types=("sam3_tracker", "sam3_tracker_video", "sam3_video"),
    modules=_modules,
    config_class=Sam3TrackerConfig,
    config=SAM3_RULES,
    sizes=sam3_sizes,
    rows=_rows,
    float_parts=_float_parts,
    float_steps=_FLOAT_STEPS,
    tied=TIED,
    layout=SAM3_LAYOUT,
    naming=SAM3_NAMING,
    processor="Sam3TrackerProcessor",
    image_processor="Sam3ImageProcessor",
    licence=SAM_LICENCE,
)
"""232 weights and 388 activations."""
