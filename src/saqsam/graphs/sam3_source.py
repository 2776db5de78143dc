"""What a SAM 3's graphs are built from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transformers import Sam3ViTConfig

from saqsam.families.sam3_names import BlockNames, block_path
from saqsam.families.sam_names import EncoderBlockNames, SamNames
from saqsam.graphs.sam2_source import LevelsSource

if TYPE_CHECKING:
    from saqsam.families.rotary_attention import Angles


@dataclass(frozen=True)
class Sam3Source(LevelsSource):
    """With blocks as of SAM's, but for their positions."""

    @property
    def names(self) -> SamNames:
        """Names of the parameters."""
        blocks = map(_block_names, range(int(self.backbone["num_hidden_layers"])))
        return replace(super().names, blocks=tuple(blocks))

    def angles(self, side: int) -> Angles:
        """By which queries and keys of a window of ``side`` tokens a side are turned; that of a block with
        global attention is the whole grid."""
        from saqsam.families.rotary_attention import angles_of

        return angles_of(Sam3ViTConfig(**self.backbone), 0 if side == self.grid else side)


def _block_names(index: int) -> EncoderBlockNames:
    path, block = block_path(index), BlockNames.of(index)
    return EncoderBlockNames(
        path, block.norms, block.attention, ("", ""), f"{path}.mlp", block.mlp_in, block.mlp_out
    )
