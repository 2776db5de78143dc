"""The image encoder without the work that padding to whole windows costs.

A grid of 64 tokens is padded to 70 for windows of 14, and ``transformers`` projects the padding with the
rest: a sixth of those products is thrown away. A padded token is zero, which every grid holds, so its query,
key and value are the projection's bias; they are put in after projecting, and taken out again before the
output projection. Results equal the plain path up to the order of float additions.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

from saqsam.models.attention import AttentionQuantizers, QuantVisionAttention
from saqsam.models.shared_decoder import is_watched


def can_skip_padding(model: SamModel) -> bool:
    """True if :func:`encode` gives what the model's own encoder gives.

    It does not where the encoder has other parts than SAM's or another ``forward``, where a hook waits for
    a module to be called, or where an observer counts what passes: those must see the plain path.
    """
    encoder = model.vision_encoder
    return (
        type(encoder) is SamVisionEncoder
        and "forward" not in vars(encoder)
        and all(
            type(layer) is SamVisionLayer and isinstance(layer.attn, SamVisionAttention)
            for layer in encoder.layers
        )
        and not any(is_watched(module) for module in encoder.modules())
    )


def encode(model: SamModel, pixel_values: Tensor) -> Tensor:
    """``(B, 3, S, S)`` preprocessed pixels to ``(B, C, g, g)`` image embeddings.

    Args:
        model: float or quantized, accepted by :func:`can_skip_padding`.
        pixel_values: on the model's device, in its precision.
    """
    encoder: Any = model.vision_encoder
    x = encoder.patch_embed(pixel_values)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for layer in encoder.layers:
        x = run_layer(layer, x)
    return cast(Tensor, encoder.neck(x))


def run_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """What ``layer(x)`` gives: ``(B, H, W, C) -> (B, H, W, C)``, windowed or global."""
    block: Any = layer
    height, width = x.shape[1:3]
    side = block.window_size
    if side == 0 or (height % side == 0 and width % side == 0):
        return cast(Tensor, block(x))
    attention = _by_parts(block.attn)
    projected = attention.qkv(block.layer_norm1(x))
    windows, padded = block.window_partition(_padded(projected, attention.qkv.bias, side), side)
    attended = block.window_unpartition(attention.attend(windows), side, padded, (height, width))
    x = x + attention.proj(attended)
    return cast(Tensor, x + block.mlp(block.layer_norm2(x)))


def _by_parts(attention: SamVisionAttention) -> QuantVisionAttention:
    """The attention with its steps apart; a float one shares its layers with what is returned."""
    if isinstance(attention, QuantVisionAttention):
        return attention
    nothing = AttentionQuantizers(None, None, None, None)
    return QuantVisionAttention(attention, nothing, float_rel_pos_query=True)


def _padded(x: Tensor, bias: Tensor | None, side: int) -> Tensor:
    """``x (B, H, W, C)`` with ``bias (C,)`` on the right and below, up to whole windows."""
    batch, height, width, channels = x.shape
    whole = x.new_empty(batch, -(-height // side) * side, -(-width // side) * side, channels)
    whole[:, :height, :width] = x
    filler = x.new_zeros(()) if bias is None else bias
    whole[:, height:] = filler
    whole[:, :height, width:] = filler
    return whole
