"""SAM 3's tracker on the modules of ``transformers``."""

from __future__ import annotations

from transformers import Sam3TrackerModel
from transformers.models.sam3.modeling_sam3 import Sam3ViTRoPEAttention
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerAttention

from saqsam.families.record import Modules
from saqsam.families.rotary_attention import QuantRotaryAttention
from saqsam.families.sam2_decoder import Sam2Decoder
from saqsam.families.sam2_modules import attention_adapter
from saqsam.families.sam3_encoder import Sam3Encoder, fill_tables

SAM3_MODULES = Modules(
    model_class=Sam3TrackerModel,
    adapt=attention_adapter(Sam3ViTRoPEAttention, Sam3TrackerAttention, QuantRotaryAttention),
    encoder=Sam3Encoder,
    decoder=Sam2Decoder,
    fill_tables=fill_tables,
)
