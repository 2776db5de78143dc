"""SAM's image encoder in its steps, without the work that padding to whole windows costs.

A grid of 64 tokens is padded to 70 for windows of 14, and ``transformers`` projects the padding with the
rest: a sixth of those products is thrown away. A padded token is zero, which every grid holds, so its query,
key and value are the projection's bias; they are put in after projecting, and taken out again before the
output projection. Results equal the plain path up to the order of float additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, State, Stream
from saqsam.families.sam_calls import embedding_of
from saqsam.families.sam_names import SamNames
from saqsam.families.sam_rows import SamRows
from saqsam.families.shared_decoder import is_watched
from saqsam.families.vision_attention import QuantVisionAttention
from saqsam.modules.attention import AttentionQuantizers


@dataclass(frozen=True)
class EncoderKinds:
    """Classes of an encoder whose steps are SAM's."""

    encoder: type[nn.Module]
    block: type[nn.Module]
    attention: type[nn.Module]


class SamEncoder:
    """See :class:`saqsam.families.record.Encoder`.

    Args:
        model: float or quantized, or a stand-in with the calls of one: then only :meth:`encode` works.
    """

    path = SamNames.encoder
    neck_path = SamNames.neck
    kinds = EncoderKinds(SamVisionEncoder, SamVisionLayer, SamVisionAttention)
    turns = True

    def __init__(self, model: Model) -> None:
        self.model = model
        self.module: nn.Module = cast(Any, model).vision_encoder

    @property
    def _parts(self) -> Any:
        return self.module

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        return cast(Sequence[nn.Module], self._parts.layers)

    @property
    def neck(self) -> nn.Module:
        """What makes the embedding of the last block's tokens."""
        return cast(nn.Module, self._parts.neck)

    @property
    def neck_parts(self) -> tuple[nn.Module, ...]:
        """The neck."""
        return (self.neck,)

    def block_path(self, index: int) -> str:
        """Where a block is in the model."""
        return f"{self.path}.layers.{index}"

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` pixels on the model's device, in its precision, to tokens ``(B, g, g, C)``."""
        tokens: Tensor = self._parts.patch_embed(pixel_values)
        return tokens if self._parts.pos_embed is None else tokens + self._parts.pos_embed

    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The state after block ``index``: its tokens ``(B, g, g, C)`` alone."""
        del index, state
        return (x,)

    def finish(self, state: State) -> Embedding:
        """The embedding ``(B, C, g, g)``, from the state after the last block."""
        return Embedding(cast(Tensor, self.neck(state[0])))

    def reaches_neck(self, after: int) -> bool:
        """Tokens have the same shape after every block."""
        del after
        return True

    def skip(self, state: State, after: int) -> Tensor:
        """The neck alone, past all later blocks."""
        del after
        return cast(Tensor, self.neck(state[0]))

    def encode(self, pixel_values: Tensor) -> Embedding:
        """``(B, 3, S, S)`` to embeddings ``(B, C, g, g)``; without padding where nothing watches."""
        if not self.can_skip_padding():
            return self.plain(pixel_values)
        state: State = (self.start(pixel_values),)
        for index, block in enumerate(self.blocks):
            state = self.carry(index, state, self.run_block(block, state[0]))
        return self.finish(state)

    def plain(self, pixel_values: Tensor) -> Embedding:
        """As :meth:`encode`, by the encoder's own ``forward``: padding takes part."""
        return embedding_of(self.module, pixel_values)

    def can_skip_padding(self) -> bool:
        """Whether the steps one after the other give what the encoder itself gives.

        They do not where it has other parts than SAM's or another ``forward``, where a hook waits for a
        module to be called, or where an observer counts what passes: those must see the plain path.
        """
        return (
            type(self.module) is self.kinds.encoder
            and "forward" not in vars(self.module)
            and all(
                type(block) is self.kinds.block
                and isinstance(block.attn, (self.kinds.attention, QuantVisionAttention))
                for block in self.blocks
            )
            and not any(is_watched(module) for module in self.module.modules())
        )

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """What ``block(x)`` gives: ``(B, H, W, C) -> (B, H, W, C)``, windowed or global."""
        layer: Any = block
        height, width = x.shape[1:3]
        side = layer.window_size
        if side == 0:
            return cast(Tensor, layer(x))
        attention = _by_parts(layer.attn)
        projected = attention.qkv(layer.layer_norm1(x))
        windows, whole = layer.window_partition(padded(projected, attention.qkv.bias, side), side)
        attended = layer.window_unpartition(attention.attend(windows), side, whole, (height, width))
        x = x + attention.proj(attended)
        return cast(Tensor, x + layer.mlp(layer.layer_norm2(x)))

    def stage_ends(self) -> list[int]:
        """A stage ends with a global block (SAQ-SAM section 3.3); what follows the last one is one more."""
        depth = len(self.blocks)
        config: Any = self.model.config.vision_config
        return sorted({index + 1 for index in config.global_attn_indexes if 0 <= index < depth} | {depth})

    def rows_of(self, block: nn.Module) -> SamRows:
        """Rows of a block that can be computed apart; its attention must be attached."""
        return SamRows(block)

    def stream(self) -> Stream:
        """The residual stream of an attached model."""
        readers, writers = [], [self._parts.patch_embed.projection]
        for index, block in enumerate(self.blocks):
            layer: Any = block
            path = self.block_path(index)
            readers += [
                (f"{path}.layer_norm1", layer.layer_norm1, layer.attn.qkv),
                (f"{path}.layer_norm2", layer.layer_norm2, layer.mlp.lin1),
            ]
            writers += [layer.attn.proj, layer.mlp.lin2]
        return Stream(tuple(readers), tuple(writers), self._parts.pos_embed, self._parts.neck.conv1)


def _by_parts(attention: SamVisionAttention) -> QuantVisionAttention:
    """The attention with its steps apart; a float one shares its layers with what is returned."""
    if isinstance(attention, QuantVisionAttention):
        return attention
    nothing = AttentionQuantizers(None, None, None, None)
    return QuantVisionAttention(attention, nothing, float_rel_pos_query=True)


def padded(x: Tensor, bias: Tensor | None, side: int) -> Tensor:
    """``x (B, H, W, C)`` with ``bias (C,)`` on the right and below, up to whole windows."""
    batch, height, width, channels = x.shape
    if height % side == 0 and width % side == 0:
        return x
    whole = x.new_empty(batch, -(-height // side) * side, -(-width // side) * side, channels)
    whole[:, :height, :width] = x
    filler = x.new_zeros(()) if bias is None else bias
    whole[:, height:] = filler
    whole[:, :height, width:] = filler
    return whole
