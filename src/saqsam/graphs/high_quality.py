"""SAM-HQ's own part of the decoder graph: features of the image and of each prompt, and one more mask."""

from __future__ import annotations

from dataclasses import dataclass

from saqsam.families.sam_names import SamNames
from saqsam.graphs.graph import Graph
from saqsam.graphs.source import Source

_EPSILON = 1e-6


@dataclass(frozen=True)
class HighQuality:
    """The layers that SAM-HQ adds, all of them float."""

    graph: Graph
    source: Source

    def of_image(self, embeddings: str, early: str) -> str:
        """``(1, C / 8, 4g, 4g)`` of ``embeddings (1, C, g, g)`` and ``early (stages, 1, g, g, D)``."""
        self.graph.scope = f"{SamNames.decoder}.hq_image"
        first, second, third, fourth, fifth, sixth = SamNames.hq_image
        tokens = self.graph.add("Squeeze", self.graph.slice(early, 0, 0, 1), self.graph.shape(0))
        y = self._upscaled(self.graph.transpose(tokens, 0, 3, 1, 2), first)
        y = self._upscaled(self._activated(y, second), third)
        x = self._upscaled(embeddings, fourth)
        return self.graph.add("Add", self._upscaled(self._activated(x, fifth), sixth), y)

    def of_masks(self, large: str, features: str) -> str:
        """``(B, C / 8, 4g, 4g)`` of ``large``, which SAM's masks are drawn on, and of :meth:`of_image`."""
        self.graph.scope = f"{SamNames.decoder}.hq_masks"
        first, norm, second = SamNames.hq_large
        x = self._convolved(self._activated(self._convolved(large, first), norm), second)
        return self.graph.add("Add", x, features)

    def _activated(self, x: str, norm: str) -> str:
        weight, bias = (self.source.parameter(self.graph, f"{norm}.{kind}") for kind in ("weight", "bias"))
        x = self.graph.transpose(x, 0, 2, 3, 1)
        x = self.graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=_EPSILON)
        return self.graph.transpose(self.graph.add("Gelu", x), 0, 3, 1, 2)

    def _upscaled(self, x: str, path: str) -> str:
        weight, bias = (self.source.parameter(self.graph, f"{path}.{kind}") for kind in ("weight", "bias"))
        return self.graph.add("ConvTranspose", x, weight, bias, strides=[2, 2], kernel_shape=[2, 2])

    def _convolved(self, x: str, path: str) -> str:
        weight, bias = (self.source.parameter(self.graph, f"{path}.{kind}") for kind in ("weight", "bias"))
        return self.graph.add("Conv", x, weight, bias, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
