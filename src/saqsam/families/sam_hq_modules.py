"""SAM-HQ on the modules of ``transformers``."""

from __future__ import annotations

from transformers.models.sam_hq.modeling_sam_hq import SamHQAttention, SamHQVisionAttention

from saqsam.families.record import Modules
from saqsam.families.sam_hq_model import HQModel
from saqsam.families.sam_hq_steps import HQDecoder, HQEncoder
from saqsam.families.sam_modules import adapter

HQ_MODULES = Modules(
    model_class=HQModel,
    adapt=adapter(SamHQVisionAttention, SamHQAttention),
    encoder=HQEncoder,
    decoder=HQDecoder,
)
