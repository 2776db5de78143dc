"""Parts of a model on the kernels, from the contents of a packed file."""

from __future__ import annotations

from torch import Tensor

from saqsam.graphs.source import Source
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.native.kernels import Kernels
from saqsam.native.layer import Columns, Layer


class Parts:
    """What encoder and decoder are built by.

    Args:
        source: of a model that :mod:`saqsam.native.supported` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Source, kernels: Kernels) -> None:
        self.source, self.kernels = source, kernels

    def floats(self, name: str) -> Tensor:
        """A float parameter as float32."""
        return self.source.packed.rest[name].float().contiguous()

    def affine(self, path: str, role: str = "input") -> Affine:
        """The grid of an activation that was seen to be affine."""
        grid = self.source.affine(f"{path}:{role}")
        if grid is None:
            raise TypeError(f"{path}:{role} is on no affine grid")
        return grid

    def map(self, path: str) -> Grid:
        """The grid of an attention's map."""
        return self.source.grids[f"{path}:attention"]

    def layer(self, path: str, grids: list[Columns] | None) -> Layer:
        """A layer whose values are rounded to ``grids``."""
        bias = self.floats(f"{path}.bias") if self.source.has(f"{path}.bias") else None
        return Layer.of(self.kernels, self.source.packed.weights[path], self.affine(path), bias, grids)
