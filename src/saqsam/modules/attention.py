"""What every attention shares: the quantizers of query, key, value and map, and the products between them.

Order of operations, as in PTQ4SAM: project, quantize (one scale for all heads), split heads, QK^T,
scale, add relative positions, softmax, quantize the map, multiply with V.
"""

from __future__ import annotations

from torch import Tensor, nn

from saqsam.modules.products import exact_scores, exact_weighted, has_steps, holds_sums
from saqsam.modules.quantizer import Quantizer


class AttentionQuantizers(nn.Module):
    """The four quantizers of one attention; ``None`` leaves that tensor float."""

    def __init__(
        self,
        query: Quantizer | None,
        key: Quantizer | None,
        value: Quantizer | None,
        attention: Quantizer | None,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attention = query, key, value, attention

    def scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """``scale * query @ key^T``: ``(..., N, d)``, ``(..., M, d)`` -> ``(..., N, M)``; exact if frozen."""
        if self.query is None or self.key is None or not holds_sums(query, key):
            return (query * scale) @ key.transpose(-2, -1)
        if not has_steps(self.query) or not has_steps(self.key):
            return (query * scale) @ key.transpose(-2, -1)
        return exact_scores(query, key, scale, self.query, self.key)

    def weighted(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """``probabilities @ value``: ``(..., N, M)``, ``(..., M, d)`` -> ``(..., N, d)``; exact if frozen and
        affine. Sums on a logarithmic grid are of irrational numbers, and rounded in any case."""
        if self.attention is None or self.value is None or not holds_sums(probabilities, value):
            return probabilities @ value
        if not has_steps(self.attention) or not has_steps(self.value):
            return probabilities @ value
        return exact_weighted(probabilities, value, self.attention, self.value)


def through(quantizer: Quantizer | None, x: Tensor) -> Tensor:
    """``x`` on its grid, or as it is where there is no quantizer."""
    return x if quantizer is None else quantizer(x)
