"""SAM 1 on the modules of ``transformers``."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamVisionAttention

from saqsam.errors import InvariantError
from saqsam.families.decoder_attention import QuantDecoderAttention
from saqsam.families.record import ENCODER, Adapter, Attention, Modules
from saqsam.families.sam_decoder import SamDecoder
from saqsam.families.sam_encoder import SamEncoder
from saqsam.families.vision_attention import QuantVisionAttention
from saqsam.modules.attention import AttentionQuantizers


def adapter(encoder: type[Any], decoder: type[Any]) -> Adapter:
    """What makes quantized attentions of these two classes, which have the parts of SAM's."""

    def adapt(
        original: nn.Module, quantizers: AttentionQuantizers, row: Attention, float_rel_pos_query: bool
    ) -> nn.Module:
        kind = encoder if row.part == ENCODER else decoder
        if not isinstance(original, kind):
            raise InvariantError(row.path, f"is a {type(original).__name__}, expected a {kind.__name__}")
        whole: Any = original
        if row.part == ENCODER:
            return QuantVisionAttention(whole, quantizers, float_rel_pos_query=float_rel_pos_query)
        return QuantDecoderAttention(whole, quantizers)

    return adapt


SAM_MODULES = Modules(
    model_class=SamModel,
    adapt=adapter(SamVisionAttention, SamAttention),
    encoder=SamEncoder,
    decoder=SamDecoder,
)
