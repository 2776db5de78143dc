"""Which parts of an image are looked at, and where they are clicked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saqsam.everything.options import EverythingOptions
from saqsam.images.crops import Window, spans


@dataclass(frozen=True)
class Crop:
    """A part of the image.

    Attributes:
        box: ``x0, y0, x1, y1`` in whole pixels of the image.
        layer: 0 for the whole image; layer i divides it into 2^i x 2^i parts.
    """

    box: Window
    layer: int

    @property
    def area(self) -> int:
        """In pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def crops_of(height: int, width: int, options: EverythingOptions) -> list[Crop]:
    """The whole image, then every layer's crops, column by column, as published.

    A layer of n x n crops overlaps by ``crop_overlap_ratio * shorter side * 2 / n`` pixels; its crops are
    equally large but for those that the image's right and lower border cut off.
    """
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, options.crop_n_layers + 1):
        across = 2**layer
        overlap = int(options.crop_overlap_ratio * min(height, width) * 2 / across)
        columns, rows = spans(width, across, overlap), spans(height, across, overlap)
        crops += [Crop((x0, y0, x1, y1), layer) for x0, x1 in columns for y0, y1 in rows]
    # On an image of a few pixels the last crops of a fine layer can lie outside it.
    return [crop for crop in crops if crop.box[0] < crop.box[2] and crop.box[1] < crop.box[3]]


def grid_for(layer: int, options: EverythingOptions) -> npt.NDArray[np.float64]:
    """``(P, 2)`` clicks of a layer's crops: x, y in shares of the crop's width and height, row by row."""
    if options.point_grids is not None:
        return options.point_grids[layer]
    side = max(1, int(options.points_per_side / options.crop_n_points_downscale_factor**layer))
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1)
