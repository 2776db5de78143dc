"""SAM 2's image encoder in its steps: Hiera's stages, each half as fine as the one before, and a neck.

The neck joins the two coarsest stages to the embedding that prompts are decoded on. The two finest reach the
decoder past it, through two convolutions of the decoder's that run once for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import (
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
    Sam2VisionModel,
    do_pool,
    window_partition,
    window_unpartition,
)

from saqsam.errors import InvariantError
from saqsam.families import sam2_names as names
from saqsam.families.embedding import Embedding
from saqsam.families.hiera_attention import QuantHieraAttention
from saqsam.families.levels_encoder import LevelsEncoder, RunBlock, plain_block
from saqsam.families.record import State, Stream
from saqsam.families.sam_encoder import padded
from saqsam.families.sam_rows import SamRows
from saqsam.families.shared_decoder import is_watched
from saqsam.modules.attention import AttentionQuantizers

_COARSE, _COARSEST = 2, 3
"""Stages that the neck joins."""


class Sam2Encoder(LevelsEncoder):
    """See :class:`saqsam.families.record.Encoder`.

    In a state, the outputs of finished stages follow the tokens.

    Args:
        model: float or quantized, or a stand-in with the calls of one: then only :meth:`encode` works.
    """

    kind = Sam2VisionModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        return cast(Sequence[nn.Module], self._parts.backbone.blocks)

    def block_path(self, index: int) -> str:
        """Where a block is in the model."""
        return names.block_path(index)

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` pixels on the model's device, in its precision, to tokens ``(B, S/4, S/4, C)``."""
        backbone = self._parts.backbone
        tokens: Tensor = backbone.patch_embed(pixel_values)
        return cast(Tensor, tokens + backbone._get_pos_embed(tokens.shape[1:3]))

    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The state after block ``index``; a stage that ends with it leaves its output for the neck."""
        last = index == len(self.blocks) - 1
        return (x, *state[1:], x) if index + 1 in self._ends() and not last else (x, *state[1:])

    def finish(self, state: State) -> Embedding:
        """The embedding ``(B, C, g, g)`` with levels ``(B, C/8, 4g, 4g)`` and ``(B, C/4, 2g, 2g)``."""
        x, fine, middle, coarse = state
        return Embedding(
            self._joined(coarse, x), self._features(self._level(0, fine), self._level(1, middle))
        )

    def reaches_neck(self, after: int) -> bool:
        """Tokens as fine as those of the embedding, or coarser ones."""
        return self._stage(after - 1) >= _COARSE

    def skip(self, state: State, after: int) -> Tensor:
        """The neck's way from this stage; within the third one, without what the fourth would add."""
        if self._stage(after - 1) == _COARSE:
            return self._level(_COARSE, state[0]) + self._no_memory()
        return self._joined(state[_COARSEST], state[0])

    def _cheapest(self) -> RunBlock:
        """Without padding to whole windows where nothing watches."""
        return self.run_block if self.can_skip_padding() else plain_block

    def can_skip_padding(self) -> bool:
        """Whether :meth:`run_block` gives what each block gives; not where a hook or an observer waits."""
        return all(
            type(block) is Sam2MultiScaleBlock
            and isinstance(block.attn, (Sam2MultiScaleAttention, QuantHieraAttention))
            for block in self.blocks
        ) and not any(is_watched(module) for module in self.module.modules())

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)``: ``(B, H, W, C)`` to the same, or to half the sides and twice the width.

        Tokens that only fill up a window are zero, so their query, key and value are the projection's bias:
        they are put in after projecting, and taken out again before the output projection.
        """
        layer: Any = block
        height, width = x.shape[1:3]
        side = layer.window_size
        if side == 0:
            return cast(Tensor, layer(x))
        attention, normed = _by_parts(layer.attn), layer.layer_norm1(x)
        windows, whole = window_partition(padded(attention.qkv(normed), attention.qkv.bias, side), side)
        attended, pool = attention.attend(windows), 1
        if layer.query_stride:
            x, pool = do_pool(layer.proj(normed), layer.query_stride), layer.query_stride[0]
        whole = whole[0] // pool, whole[1] // pool
        attended = window_unpartition(attended, side // pool, whole, (height // pool, width // pool))
        x = x + attention.proj(attended)
        return cast(Tensor, x + layer.mlp(layer.layer_norm2(x)))

    def stage_ends(self) -> list[int]:
        """Stages of Hiera, the long third one divided behind each block with global attention."""
        ends = {index + 1 for index in self._config.global_attention_blocks}
        return sorted(ends.union(self._ends()))

    def rows_of(self, block: nn.Module) -> SamRows | None:
        """Rows of a block that can be computed apart; ``None`` where it pools."""
        return None if cast(Any, block).query_stride else SamRows(block)

    def stream(self) -> Stream:
        """There is none to turn."""
        raise InvariantError(self.path, "its residual stream is pooled, so it cannot be turned")

    @property
    def _config(self) -> Any:
        return self.model.config.vision_config.backbone_config

    def _ends(self) -> list[int]:
        return list(accumulate(self._config.blocks_per_stage))

    def _stage(self, block: int) -> int:
        return sum(end <= block for end in self._ends())

    def _level(self, stage: int, x: Tensor) -> Tensor:
        """What the neck's convolution makes of a stage's output: ``(B, H, W, D) -> (B, C, H, W)``."""
        convolutions = self._parts.neck.convs
        return cast(Tensor, convolutions[len(convolutions) - 1 - stage](x.permute(0, 3, 1, 2)))

    def _joined(self, coarse: Tensor, coarsest: Tensor) -> Tensor:
        above = F.interpolate(self._level(_COARSEST, coarsest), scale_factor=2.0, mode="nearest")
        return self._level(_COARSE, coarse) + above + self._no_memory()


def _by_parts(attention: Any) -> QuantHieraAttention:
    """The attention with its steps apart; a float one shares its layers with what is returned."""
    if isinstance(attention, QuantHieraAttention):
        return attention
    return QuantHieraAttention(attention, AttentionQuantizers(None, None, None, None))
