"""Pre-render training scenes into uint8 arrays that the training processes map into memory.

python tools/nano_cache.py --out DIR --scenes 8000 --seed 1000 --workers 2
"""

from __future__ import annotations

import argparse
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from saqsam.scenes.compose import make_scene

SIDE = 256
SHARD = 500


def render_shard(job: tuple[str, int, int, int]) -> str:
    """Render one shard of ``count`` scenes; scene ``i`` depends on the seed and ``i`` alone."""
    directory, seed, shard, count = job
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty((count, SIDE, SIDE), np.uint8)
    for row in range(count):
        scene = make_scene(np.random.default_rng([seed, shard * count + row]), (SIDE, SIDE))
        images[row], labels[row] = scene.image, scene.labels
    for name, array in (("images", images), ("labels", labels)):
        final = Path(directory) / f"{name}-{shard:03d}.npy"
        partial = final.with_suffix(".part.npy")
        np.save(partial, array)
        partial.replace(final)
    return f"shard {shard} done"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shards = -(-options.scenes // SHARD)
    jobs = [(str(options.out), options.seed, k, SHARD) for k in range(shards)]
    jobs = [job for job in jobs if not (options.out / f"labels-{job[2]:03d}.npy").exists()]
    with get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(render_shard, jobs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
