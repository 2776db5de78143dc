"""SAM 2 and 2.1 on the modules of ``transformers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2MultiScaleAttention

from saqsam.errors import InvariantError
from saqsam.families.decoder_attention import QuantDecoderAttention
from saqsam.families.hiera_attention import QuantHieraAttention
from saqsam.families.record import ENCODER, Adapter, Attention, Modules
from saqsam.families.sam2_decoder import Sam2Decoder
from saqsam.families.sam2_encoder import Sam2Encoder
from saqsam.modules.attention import AttentionQuantizers


def attention_adapter(
    encoder_kind: type[Any],
    decoder_kind: type[Any],
    quantized: Callable[[Any, AttentionQuantizers], nn.Module],
) -> Adapter:
    """Of a family with SAM 2's decoder.

    Args:
        encoder_kind, decoder_kind: classes of float attentions.
        quantized: makes the encoder's quantized.
    """

    def adapt(
        original: nn.Module, quantizers: AttentionQuantizers, row: Attention, float_rel_pos_query: bool
    ) -> nn.Module:
        del float_rel_pos_query  # there are no relative positions
        kind = encoder_kind if row.part == ENCODER else decoder_kind
        if not isinstance(original, kind):
            raise InvariantError(row.path, f"is a {type(original).__name__}, expected a {kind.__name__}")
        if row.part == ENCODER:
            return quantized(original, quantizers)
        return QuantDecoderAttention(original, quantizers, output="o_proj")

    return adapt


SAM2_MODULES = Modules(
    model_class=Sam2Model,
    adapt=attention_adapter(Sam2MultiScaleAttention, Sam2Attention, QuantHieraAttention),
    encoder=Sam2Encoder,
    decoder=Sam2Decoder,
)
