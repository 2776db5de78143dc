"""Input sizes by hand, and bilinear filtering against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saqsam.detectors.resize import fitted_size, normalise, resize_pixels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "limits", "wanted"),
    [
        ((480, 640), (1333, 800), (800, 1067)),  # short side decides: 640 * 800 / 480 = 1066.67
        ((427, 640), (1333, 800), (800, 1199)),  # 1199.06
        ((200, 640), (1333, 800), (417, 1333)),  # long side decides: 416.56
        ((640, 427), (640, 640), (640, 427)),
        ((375, 500), (640, 640), (480, 640)),
        ((1, 3000), (640, 640), (1, 640)),  # never nothing
    ],
)
def test_sizes_keep_the_shape(
    size: tuple[int, int], limits: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert fitted_size(*size, *limits) == wanted


def plain_bilinear(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each output pixel from its four neighbours, edge pixels repeated; no smoothing when shrinking."""
    rows, columns = channel.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = channel[y0, x0] * (1 - (u - x0)) + channel[y0, x1] * (u - x0)
            low = channel[y1, x0] * (1 - (u - x0)) + channel[y1, x1] * (u - x0)
            result[y, x] = top * (1 - (v - y0)) + low * (v - y0)
    return result


@pytest.mark.parametrize("size", [(9, 5), (20, 31), (13, 17)])
def test_bilinear_without_smoothing_rounded_to_whole_values(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    found = resize_pixels(pixels, size, CPU)
    assert found.shape == (3, *size)
    assert torch.equal(found, found.round())
    for channel in range(3):
        wanted = plain_bilinear(pixels[..., channel].astype(float), *size)
        assert np.abs(found[channel].numpy() - wanted).max() <= 0.5 + 1e-3


def test_normalised_with_imagenets_figures() -> None:
    image = (
        torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        + torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    )
    assert torch.allclose(normalise(image), torch.ones(3, 1, 1), atol=1e-6)
