"""SAM 3's image encoder in its steps: a plain transformer with rotary positions, and a neck of three levels.

All levels are made of the last block's tokens: the coarsest is the embedding that prompts are decoded on, the
finer ones reach the decoder through two convolutions of the decoder's that run once for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers.models.sam3.modeling_sam3 import Sam3VisionModel

from saqsam.errors import InvariantError
from saqsam.families import sam3_names as names
from saqsam.families.embedding import Embedding
from saqsam.families.levels_encoder import LevelsEncoder, plain_block
from saqsam.families.record import State, Stream
from saqsam.families.sam_rows import SamRows

_FINE, _MIDDLE, _COARSE = range(names.LEVELS)


class Sam3Encoder(LevelsEncoder):
    """See :class:`saqsam.families.record.Encoder`.

    Args:
        model: float or quantized, or a stand-in with the calls of one: then only :meth:`encode` works.
    """

    kind = Sam3VisionModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        return cast(Sequence[nn.Module], self._parts.backbone.layers)

    def block_path(self, index: int) -> str:
        """Where a block is in the model."""
        return names.block_path(index)

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` pixels on the model's device, in its precision, to tokens ``(B, g, g, C)``."""
        backbone = self._parts.backbone
        side = pixel_values.shape[-1] // backbone.config.patch_size
        tokens: Tensor = backbone.embeddings(pixel_values).unflatten(1, (side, side))
        return cast(Tensor, backbone.layer_norm(tokens))

    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The state after block ``index``: its tokens ``(B, g, g, C)`` alone."""
        del index, state
        return (x,)

    def finish(self, state: State) -> Embedding:
        """The embedding ``(B, C, g, g)`` with levels ``(B, C/8, 4g, 4g)`` and ``(B, C/4, 2g, 2g)``."""
        (x,) = state
        features = self._features(self._level(_FINE, x), self._level(_MIDDLE, x))
        return Embedding(self._coarse(x), features)

    def reaches_neck(self, after: int) -> bool:
        """Tokens have the same shape after every block."""
        del after
        return True

    def skip(self, state: State, after: int) -> Tensor:
        """The neck's coarsest level, past all later blocks."""
        del after
        return self._coarse(state[0])

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)``: ``(B, H, W, C)`` to the same."""
        return plain_block(block, x)

    def stage_ends(self) -> list[int]:
        """A stage ends with a global block; what follows the last one is one more."""
        depth = len(self.blocks)
        config: Any = self.model.config.vision_config.backbone_config
        return sorted({index + 1 for index in config.global_attn_indexes if 0 <= index < depth} | {depth})

    def rows_of(self, block: nn.Module) -> SamRows:
        """Rows of a block that can be computed apart; its attention must be attached."""
        return RotaryRows(block)

    def stream(self) -> Stream:
        """There is none to turn."""
        raise InvariantError(self.path, "its residual stream begins with a norm, so it cannot be turned")

    def _level(self, level: int, x: Tensor) -> Tensor:
        """``(B, g, g, D)`` tokens to ``(B, C, H, W)``."""
        return cast(Tensor, self._parts.neck.fpn_layers[level](x.permute(0, 3, 1, 2)))

    def _coarse(self, x: Tensor) -> Tensor:
        return self._level(_COARSE, x) + self._no_memory()


class RotaryRows(SamRows):
    """Rows of a block whose attention turns queries and keys by their positions in the whole image."""

    def run(self, x: Tensor, rows: slice) -> Tensor:
        """``block(x)[:, rows]``, ``(B, rows, W, C)``, without the work for other rows."""
        block = self.block
        if block.window_size:
            return super().run(x, rows)
        angles = block.rotary_emb(x, block.position_ids)
        attended = block.attention.some_rows(block.layer_norm1(x), rows, angles)
        x = x[:, rows] + attended
        output: Tensor = x + block.mlp(block.layer_norm2(x))
        return output


def fill_tables(model: Any) -> None:
    """Angles and positions of every block, which no file holds: of a model laid out without memory."""
    for block in model.vision_encoder.backbone.layers:
        block.position_ids = block.precompute_positions(block.config, block.window_size)
        rotary = block.rotary_emb
        rotary.inv_freq, rotary.attention_scaling = rotary.compute_axial_rope_parameters(block.config)
        rotary.original_inv_freq = rotary.inv_freq.clone()
