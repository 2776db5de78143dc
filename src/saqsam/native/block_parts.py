"""Blocks of any family's encoder on the kernels, from the contents of a packed file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saqsam.families import record
from saqsam.grids.affine import Affine
from saqsam.native.attention import Attention, Levels, Operands
from saqsam.native.blocks import Block, Rest
from saqsam.native.layer import Columns
from saqsam.native.norm import Norm
from saqsam.native.parts import Parts


class BlockNames(Protocol):
    """Where the parameters of a block are."""

    @property
    def norms(self) -> tuple[str, str]:
        """Before attention and MLP."""

    @property
    def attention(self) -> record.Attention:
        """Its row in the family's table."""

    @property
    def mlp_in(self) -> str:
        """The MLP's first layer."""

    @property
    def mlp_out(self) -> str:
        """The second one."""


@dataclass(frozen=True)
class Windows:
    """What one attention looks at.

    Attributes:
        side, window: of the image and of windows in tokens; the same where attention is global.
        heads: of the attention.
        channels: of all heads.
    """

    side: int
    window: int
    heads: int
    channels: int


class BlockParts(Parts):
    """What encoders are built by; arguments as of ``Parts``."""

    def norm(self, path: str, grid: Affine | None, epsilon: float | None = None) -> Norm:
        """A norm whose values are rounded to ``grid``; ``epsilon`` is the blocks' own unless given."""
        epsilon = float(self.source.backbone["layer_norm_eps"]) if epsilon is None else epsilon
        return Norm(self.kernels, self.floats(f"{path}.weight"), self.floats(f"{path}.bias"), epsilon, grid)

    def block(self, names: BlockNames, windows: Windows, tables: tuple[Tensor, Tensor] | None) -> Block:
        """A block whose queries, keys and values one layer makes; ``tables`` as of ``Attention``."""
        (fused,) = names.attention.projections
        operands = self.operands(names.attention)
        every = (operands.query, operands.key, operands.value)
        return Block(
            self.norm(names.norms[0], self.affine(fused)),
            self.layer(fused, [Columns(grid, windows.channels) for grid in every]),
            self.attention(names.attention, windows, self._outside(fused, windows.channels), tables),
            self.rest(names),
        )

    def rest(self, names: BlockNames) -> Rest:
        """What follows a block's attention."""
        hidden = int(self.source.packed.weights[names.mlp_in].codes.shape[0])
        return Rest(
            self.layer(names.attention.output, None),
            self.norm(names.norms[1], self.affine(names.mlp_in)),
            self.layer(names.mlp_in, [Columns(self.affine(names.mlp_out), hidden)]),
            self.layer(names.mlp_out, None),
        )

    def operands(self, attention: record.Attention) -> Operands:
        """The grids of query, key and value."""
        return Operands(*(self.affine(attention.path, role) for role in ("query", "key", "value")))

    def attention(
        self,
        attention: record.Attention,
        windows: Windows,
        outside: Tensor,
        tables: tuple[Tensor, Tensor] | None,
    ) -> Attention:
        """What is between a block's projections.

        Args:
            attention: its row.
            windows: what it looks at.
            outside: ``(3 * C,)`` query, key and value of a token outside the image.
            tables: as of ``Attention``.
        """
        operands, maps = self.operands(attention), self.map(attention.path)
        query, key, value = outside.chunk(3)
        codes = [operands.query.codes(query), operands.key.codes(key), operands.value.codes(value)]
        return Attention(
            self.kernels,
            windows.side,
            windows.window,
            windows.heads,
            windows.channels // windows.heads,
            operands,
            maps.as_affine(),
            self.affine(attention.output),
            torch.cat(codes).to(torch.uint8),
            tables,
            self.source.packed.recipe.get("rel_pos_query") == "float" and tables is not None,
            Levels.of(maps) if maps.as_affine() is None else None,
        )

    def _outside(self, fused: str, channels: int) -> Tensor:
        """What a layer makes of zeros."""
        bias = f"{fused}.bias"
        return self.floats(bias) if self.source.has(bias) else torch.zeros(3 * channels)
