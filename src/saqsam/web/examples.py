"""Pictures to try a page on: generated scenes, and photographs where an installed package brings some."""

from __future__ import annotations

import io
from importlib.resources import files

import numpy as np
from PIL import Image

from saqsam.images.files import Pixels
from saqsam.scenes import make_scene

_SEEDS = (40, 57, 59)
_SIZE = (384, 512)
_ENLARGED = 3.4
"""Objects are about this many times as large as in the scenes the shipped models learned from, and fewer."""
_RADII, _DENSITY = (18.0, 48.0), (9.0, 14.0)
_PHOTOGRAPHS = {"coffee.png": "Coffee", "chelsea.png": "Cat", "astronaut.png": "Astronaut"}
"""Of scikit-image's wheel: in the public domain or CC0."""


def examples() -> dict[str, tuple[str, bytes]]:
    """File names of examples, each with its title and the bytes of a PNG."""
    found: dict[str, tuple[str, bytes]] = {}
    for number, seed in enumerate(_SEEDS, 1):
        few = (_DENSITY[0] / _ENLARGED**2, _DENSITY[1] / _ENLARGED**2)
        large = (_RADII[0] * _ENLARGED, _RADII[1] * _ENLARGED)
        scene = make_scene(np.random.default_rng(seed), _SIZE, density=few, radius=large)
        found[f"scene-{number}.png"] = (f"Generated scene {number}", _png(scene.image))
    try:
        folder = files("skimage").joinpath("data")
    except ImportError:
        return found
    for name, title in _PHOTOGRAPHS.items():
        file = folder.joinpath(name)
        if file.is_file():
            found[name] = (title, file.read_bytes())
    return found


def _png(pixels: Pixels) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, format="PNG", optimize=True)
    return kept.getvalue()
