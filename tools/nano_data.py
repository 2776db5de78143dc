"""Training samples: augmented 128-px crops of cached scenes, objects to prompt for, prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

SIDE = 128
MIN_OBJECT = 90
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


Cut = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Batch(NamedTuple):
    """What one step needs. B images, K prompts each (first half boxes, second half clicks)."""

    pixels: Tensor  # (B, 3, 128, 128) float32, normalised, zero where padded
    labels: Tensor  # (B, 128, 128) int64, 0 background
    extents: Tensor  # (B, 256, 4) float32: object box seen from each patch centre, in patches; nan outside
    targets: Tensor  # (B, K, 64, 64) float32 coverage
    boxes: Tensor  # (B, K, 4) float32, pixels
    clicks: Tensor  # (B, K, 2) float32, pixels


class SceneCache:
    """Memory-mapped shards written by nano_cache.py."""

    def __init__(self, directory: Path) -> None:
        shards = sorted(directory.glob("labels-*[0-9].npy"))
        self.labels = [np.load(p, mmap_mode="r") for p in shards]
        self.images = [
            np.load(p.with_name(p.name.replace("labels", "images")), mmap_mode="r") for p in shards
        ]
        self.shard = len(self.labels[0])

    def __len__(self) -> int:
        return self.shard * len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        shard, row = divmod(index, self.shard)
        return self.images[shard][row], self.labels[shard][row]


def crop(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A random 128-px crop: 4 in 5 at scale 1, the rest shrunk from up to 208 px."""
    side = SIDE if rng.random() < 0.8 else int(rng.integers(112, 209))
    y, x = rng.integers(0, image.shape[0] - side + 1, 2)
    return varied(rng, image[y : y + side, x : x + side], labels[y : y + side, x : x + side])


def squashed(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A crop whose sides are resized to 128 px each by its own factor, as SAM 2 does: 1 in 2 at scale 1."""
    kind = rng.random()
    height = width = SIDE
    if kind > 0.5:
        height = int(rng.integers(88, 144) if kind < 0.85 else rng.integers(112, 209))
        width = SIDE if kind < 0.85 else int(np.clip(height * rng.uniform(0.75, 1.33), 112, 208))
        height, width = (height, width) if rng.random() < 0.5 else (width, height)
    y, x = rng.integers(0, image.shape[0] - height + 1), rng.integers(0, image.shape[1] - width + 1)
    return varied(rng, image[y : y + height, x : x + width], labels[y : y + height, x : x + width])


def varied(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A crop at 128 px, turned, mirrored, its colours exchanged and sometimes inverted."""
    if image.shape[:2] != (SIDE, SIDE):
        size = (SIDE, SIDE)
        image = np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR)
        )
        labels = np.asarray(
            Image.fromarray(np.ascontiguousarray(labels)).resize(size, Image.Resampling.NEAREST)
        )
    turns, flip = rng.integers(4), rng.random() < 0.5
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = image[..., rng.permutation(3)]
    if rng.random() < 0.3:
        image = 255 - image
    return image, labels


def normalised(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float32) / 255 - MEAN) / STD


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def click_in(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
    """Half of the time the pixel farthest from the edge, else any pixel of the object."""
    if rng.random() < 0.5:
        x0, y0, x1, y1 = tight_box(mask)
        distance = distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        return int(x) + x0 - 1, int(y) + y0 - 1
    rows, columns = np.nonzero(mask)
    pick = int(rng.integers(len(rows)))
    return int(columns[pick]), int(rows[pick])


def jittered(rng: np.random.Generator, box: tuple[int, int, int, int]) -> np.ndarray:
    exact = np.array(box, np.float32)
    if rng.random() < 0.6:
        return exact
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2, np.float32)
    return np.clip(exact + rng.normal(0, 0.05, 4).astype(np.float32) * sides, 0, SIDE)


def sample(
    rng: np.random.Generator, cache: SceneCache, prompts: int, cut: Cut = crop, padded: float = 0.15
) -> tuple[np.ndarray, ...]:
    """One image with its prompts; crops without an object are drawn again.

    Args:
        cut: makes a 128-px image and its labels of a scene.
        padded: share of images of which a part is left empty, as SAM pads what is not square.
    """
    while True:
        image, labels = cut(rng, *cache[int(rng.integers(len(cache)))])
        height = width = SIDE
        if rng.random() < padded:
            short = int(rng.integers(64, SIDE))
            height, width = (short, SIDE) if rng.random() < 0.5 else (SIDE, short)
        labels = np.ascontiguousarray(labels).copy()
        labels[height:], labels[:, width:] = 0, 0
        sizes = np.bincount(labels.ravel())
        ids = np.flatnonzero(sizes >= MIN_OBJECT)
        ids = ids[ids > 0]
        if len(ids):
            break
    pixels = normalised(image)
    pixels[height:], pixels[:, width:] = 0, 0
    found = {int(i): labels == i for i in ids}
    boxes = {i: tight_box(mask) for i, mask in found.items()}
    extents = np.full((16, 16, 4), np.nan, np.float32)
    at = labels[4::8, 4::8]
    centres = np.arange(16, dtype=np.float32) * 8 + 4
    for i, (x0, y0, x1, y1) in boxes.items():
        here = at == i
        ltrb = np.stack(
            np.broadcast_arrays(centres - x0, (centres - y0)[:, None], x1 - centres, (y1 - centres)[:, None]),
            -1,
        )
        extents[here] = ltrb[here] / 8
    half = prompts // 2
    chosen = np.concatenate([rng.permutation(np.resize(rng.permutation(ids), half)) for _ in range(2)])
    targets = np.stack([found[int(i)].reshape(64, 2, 64, 2).mean((1, 3), dtype=np.float32) for i in chosen])
    prompt_boxes = np.stack([jittered(rng, boxes[int(i)]) for i in chosen])
    clicks = np.array([click_in(rng, found[int(i)]) for i in chosen], np.float32)
    return (
        pixels.transpose(2, 0, 1),
        labels.astype(np.int64),
        extents.reshape(256, 4),
        targets,
        prompt_boxes,
        clicks,
    )


def make_batch(
    rng: np.random.Generator,
    cache: SceneCache,
    images: int,
    prompts: int,
    cut: Cut = crop,
    padded: float = 0.15,
) -> Batch:
    columns = zip(*(sample(rng, cache, prompts, cut, padded) for _ in range(images)), strict=True)
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))
