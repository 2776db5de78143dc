"""Rows of tokens on which a block can be learned apart: a step is then several times as cheap.

In a local loss every token counts for itself. Windows do not see each other, so a row of windows cut out of
the image gives what it gives inside it; behind a global attention a query needs all keys, but no other query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SamRows:
    """The rows of one block; see :class:`saqsam.families.record.RowSubset`.

    Attributes:
        block: a layer of the image encoder, ``(B, H, W, C) -> (B, H, W, C)``, with its attention attached.
    """

    block: Any

    def split(self, height: int, share: float) -> list[slice]:
        """Consecutive slices of rows, about ``share`` of the image each; whole windows where there are any.

        The last window may reach over the image's edge, so slices differ in height.
        """
        step = self.block.window_size or 1
        units = -(-height // step)
        count = min(units, max(1, round(1 / share)))
        ends = [min(height, step * (units * (index + 1) // count)) for index in range(count)]
        return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]

    def run(self, x: Tensor, rows: slice) -> Tensor:
        """``block(x)[:, rows]``, ``(B, rows, W, C)``, without the work for other rows."""
        block = self.block
        if block.window_size:
            output: Tensor = block(x[:, rows])
            return output
        x = block.attn.some_rows(block.layer_norm1(x), rows) + x[:, rows]
        output = x + block.mlp(block.layer_norm2(x))
        return output

    def is_global(self, x: Tensor) -> bool:
        """Whether every token attends to all of ``x``."""
        return not self.block.window_size
