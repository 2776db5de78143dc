"""Transformer blocks on the kernels: tokens stay float between blocks, all within is codes and sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.native.attention import Attention
from saqsam.native.kernels import codes_buffer
from saqsam.native.layer import Layer
from saqsam.native.norm import Norm


@dataclass(frozen=True)
class Block:
    """Norm, attention, norm, MLP; queries, keys and values are made by one layer."""

    before: tuple[Norm, Norm]
    project: Layer
    attention: Attention
    output: Layer
    mlp_in: Layer
    mlp_out: Layer

    def run(self, x: Tensor) -> Tensor:
        """float32 tokens ``(side * side, C)``, in place."""
        return self.finished(x, self.gathered(x))

    def gathered(self, x: Tensor) -> Tensor:
        """Codes of what the attention gathers for tokens ``x``, uint8 ``(rows, at least C)``."""
        tokens, channels = x.shape
        qkv = codes_buffer(tokens, self.project.columns)
        query = torch.empty(tokens, channels) if self.attention.float_query else None
        self.project.run(self.before[0].run(x), values=query, out=qkv)
        return self.attention.run(qkv, query)

    def finished(self, x: Tensor, gathered: Tensor) -> Tensor:
        """What was gathered projected and added to ``x (rows, C)``, then the MLP, in place."""
        self.output.run(gathered, values=x, residual=x)
        hidden = codes_buffer(len(x), self.mlp_in.columns)
        self.mlp_in.run(self.before[1].run(x), gelu=True, out=hidden)
        self.mlp_out.run(hidden, values=x, residual=x)
        return x


@dataclass(frozen=True)
class PoolingBlock(Block):
    """One where a stage of Hiera begins: a query is the maximum of those of 2x2 tokens, and so is what its
    attention is added to, after a layer of its own.

    Attributes:
        norm, shortcut: what that layer reads, and the layer.
    """

    norm: Norm
    shortcut: Layer

    def run(self, x: Tensor) -> Tensor:
        """float32 tokens ``(side * side, C)`` to ``(side * side / 4, C')``."""
        values = torch.empty(len(x), self.shortcut.columns)
        self.shortcut.run(self.norm.run(x), values=values)
        return self.finished(pooled(values, self.attention.side), self.gathered(x))

    def gathered(self, x: Tensor) -> Tensor:
        """As of ``Block``, with a quarter of the rows. Rounding is monotone: the largest code is the code of
        the largest value."""
        qkv = codes_buffer(len(x), self.project.columns)
        self.project.run(self.before[0].run(x), out=qkv)
        width = self.attention.heads * self.attention.width
        return self.attention.run(qkv, None, pooled(qkv[:, :width], self.attention.side))


def pooled(x: Tensor, side: int) -> Tensor:
    """The maximum of each 2x2 of ``(side * side, C)``: ``(side * side / 4, C)``."""
    rows = x.unflatten(0, (side // 2, 2, side))
    rows = torch.maximum(rows[:, 0], rows[:, 1]).unflatten(1, (side // 2, 2))
    return torch.maximum(rows[:, :, 0], rows[:, :, 1]).flatten(0, 1)
