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
class Rest:
    """What follows a block's attention: its output layer, then norm and MLP."""

    output: Layer
    norm: Norm
    mlp_in: Layer
    mlp_out: Layer

    def run(self, x: Tensor, gathered: Tensor) -> Tensor:
        """Codes that were gathered projected and added to ``x (rows, C)``, then the MLP, in place."""
        self.output.run(gathered, values=x, residual=x)
        hidden = codes_buffer(len(x), self.mlp_in.columns)
        self.mlp_in.run(self.norm.run(x), gelu=True, out=hidden)
        self.mlp_out.run(hidden, values=x, residual=x)
        return x


@dataclass(frozen=True)
class Block:
    """Norm, attention, norm, MLP; queries, keys and values are made by one layer."""

    norm: Norm
    project: Layer
    attention: Attention
    rest: Rest

    def run(self, x: Tensor) -> Tensor:
        """float32 tokens ``(side * side, C)``, in place."""
        return self.rest.run(x, self.gathered(x))

    def gathered(self, x: Tensor) -> Tensor:
        """Codes of what the attention gathers for tokens ``x``, uint8 ``(rows, at least C)``."""
        tokens, channels = x.shape
        qkv = codes_buffer(tokens, self.project.columns)
        query = torch.empty(tokens, channels) if self.attention.float_query else None
        self.project.run(self.norm.run(x), values=query, out=qkv)
        return self.attention.run(qkv, query)


@dataclass(frozen=True)
class PoolingBlock(Block):
    """One where a stage of Hiera begins: a query is the maximum of those of 2x2 tokens, and so is what its
    attention is added to, after a layer of its own.

    Attributes:
        shortcut: what that layer reads, and the layer.
    """

    shortcut: tuple[Norm, Layer]

    def run(self, x: Tensor) -> Tensor:
        """float32 tokens ``(side * side, C)`` to ``(side * side / 4, C')``."""
        norm, layer = self.shortcut
        values = torch.empty(len(x), layer.columns)
        layer.run(norm.run(x), values=values)
        return self.rest.run(pooled(values, self.attention.side), self.gathered(x))

    def gathered(self, x: Tensor) -> Tensor:
        """As of ``Block``, with a quarter of the rows. Rounding is monotone: the largest code is the code of
        the largest value."""
        qkv = codes_buffer(len(x), self.project.columns)
        self.project.run(self.norm.run(x), out=qkv)
        width = self.attention.heads * self.attention.width
        return self.attention.run(qkv, None, pooled(qkv[:, :width], self.attention.side))


def pooled(x: Tensor, side: int) -> Tensor:
    """The maximum of each 2x2 of ``(side * side, C)``: ``(side * side / 4, C)``."""
    rows = x.unflatten(0, (side // 2, 2, side))
    rows = torch.maximum(rows[:, 0], rows[:, 1]).unflatten(1, (side // 2, 2))
    return torch.maximum(rows[:, :, 0], rows[:, :, 1]).flatten(0, 1)
