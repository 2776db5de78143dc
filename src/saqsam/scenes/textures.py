"""Seven kinds of surface for objects and backgrounds, as float32 RGB in [0, 255]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]
_Pattern = Callable[[np.random.Generator, int, int], Pixels]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Pixels:
    """Noise that varies over about ``cell`` pixels; (height, width) float32 in [0, 1]."""
    rows, columns = (max(2, int(np.ceil(side / cell)) + 1) for side in (height, width))
    grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    smooth: Pixels = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return smooth.clip(0.0, 1.0)


def _directed(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Distance in pixels along a random direction; (height, width)."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.arange(height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    columns = np.arange(width, dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    return rows + columns


def _flat(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return np.full((height, width), rng.random(), dtype=np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Pixels:
    ramp = _directed(rng, height, width)
    low, high = float(ramp.min()), float(ramp.max())
    gradient: Pixels = (ramp - low) / max(high - low, 1.0)
    return gradient


def _stripes(rng: np.random.Generator, height: int, width: int) -> Pixels:
    period = rng.uniform(5.0, 22.0)
    wave = np.sin(_directed(rng, height, width) * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi))
    stripes: Pixels = np.clip(0.5 + wave * rng.uniform(0.5, 3.0), 0.0, 1.0).astype(np.float32)
    return stripes


def _checks(rng: np.random.Generator, height: int, width: int) -> Pixels:
    period = rng.uniform(10.0, 32.0)
    angle = rng.uniform(0, np.pi / 2)
    rows, columns = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * np.pi / period)
    along = np.sin(columns * np.cos(angle) + rows * np.sin(angle))
    across = np.sin(rows * np.cos(angle) - columns * np.sin(angle))
    checks: Pixels = (0.5 + 0.5 * np.clip(along * across * 6.0, -1.0, 1.0)).astype(np.float32)
    return checks


def _dots(rng: np.random.Generator, height: int, width: int) -> Pixels:
    period = rng.uniform(8.0, 20.0)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    shift = rng.uniform(0, period, 2)
    row = (rows + shift[0]) % period - period / 2
    column = (columns + shift[1]) % period - period / 2
    edge = period * rng.uniform(0.2, 0.38)
    dots: Pixels = np.clip(edge - np.hypot(row, column) + 0.5, 0.0, 1.0).astype(np.float32)
    return dots


def _clouds(rng: np.random.Generator, height: int, width: int) -> Pixels:
    cell = rng.uniform(10.0, 40.0)
    coarse = smooth_noise(rng, height, width, cell)
    fine = smooth_noise(rng, height, width, cell / 3)
    clouds: Pixels = 0.65 * coarse + 0.35 * fine
    return clouds


def _marble(rng: np.random.Generator, height: int, width: int) -> Pixels:
    warp = smooth_noise(rng, height, width, rng.uniform(12.0, 30.0)) * rng.uniform(6.0, 16.0)
    along = _directed(rng, height, width) * (2 * np.pi / rng.uniform(14.0, 40.0))
    return (0.5 + 0.5 * np.sin(along + warp)).astype(np.float32)


_PATTERNS: tuple[_Pattern, ...] = (_flat, _gradient, _stripes, _checks, _dots, _clouds, _marble)
TEXTURE_KINDS = len(_PATTERNS)


def make_texture(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A patch of one random surface; (height, width, 3) float32 RGB in [0, 255].

    Two random colours are mixed by the pattern; the second is drawn near the first half of the
    time, which gives surfaces of low contrast.
    """
    first = rng.uniform(10.0, 245.0, 3)
    second = rng.uniform(10.0, 245.0, 3)
    if rng.random() < 0.5:
        second = first + rng.normal(0.0, 30.0, 3)
    first, second = np.clip(first, 5, 250), np.clip(second, 5, 250)
    blend = _PATTERNS[int(rng.integers(TEXTURE_KINDS))](rng, height, width)[..., None]
    mixed = first.astype(np.float32) * (1 - blend) + second.astype(np.float32) * blend
    return mixed.astype(np.float32)
