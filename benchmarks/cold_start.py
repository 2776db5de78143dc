"""From an empty process to the first mask of a SAM-B: float, packed and simulated, packed on two engines.

    OMP_NUM_THREADS=2 python benchmarks/cold_start.py --bits w4a8 --rounds 2 --out cold_start.csv

Random weights, as an official checkpoint and as a packed file; every row and round is a process of its own,
in turns, after one unmeasured round that fills the disk cache. ``load_s`` is from the first line of the
process to a loaded model (the import of PyTorch and saqsam is in it), ``first_mask_s`` from there to the mask
of one box, ``peak_MB`` the largest resident memory of the process.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = time.perf_counter()
BOX = [100.0, 100.0, 700.0, 800.0]
COLUMNS = ("row", "bits", "rounds", "threads", "bytes", "load_s", "first_mask_s", "total_s", "peak_MB")


def measure(file: Path, engine: str) -> None:
    """Load, segment one box, print seconds and peak memory."""
    import numpy as np

    import saqsam
    from saqsam.bench.peak import peak_bytes
    from saqsam.freed_memory import keep_freed_memory

    keep_freed_memory()
    sam = saqsam.load(file, engine=engine)
    loaded = time.perf_counter()
    sam.segment(np.full((1024, 1024, 3), 127, np.uint8), boxes=[BOX])
    done = time.perf_counter()
    peak = (peak_bytes() or 0) / 1e6
    print(json.dumps({"load_s": loaded - START, "first_mask_s": done - loaded, "peak_MB": peak}))


def write_models(directory: Path, bits: str) -> dict[str, tuple[Path, str]]:
    """A SAM-B as an official checkpoint and packed; file and engine of each row."""
    import torch
    from runtime import write_random_sam
    from transformers import SamConfig, SamModel

    from saqsam.checkpoints.official import write_official

    packed, official = directory / "sam-b.saqsam", directory / "sam_vit_b.pth"
    write_random_sam(packed, bits)
    config = SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})
    with torch.no_grad():
        write_official(SamModel(config).eval(), official)
    return {
        "float checkpoint": (official, "torch"),
        "packed, simulated": (packed, "torch"),
        "packed, integers": (packed, "onnxruntime"),
        "packed, native": (packed, "native"),
    }


def run(file: Path, engine: str) -> dict[str, float]:
    """One process."""
    words = [sys.executable, __file__, "--measure", str(file), engine]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(found.stdout)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        models = write_models(Path(directory), options.bits)
        for number in range(options.rounds + 1):
            for row, (file, engine) in models.items():
                result = run(file, engine)
                if number:
                    found.setdefault(row, []).append(result)
        sizes = {row: file.stat().st_size for row, (file, _) in models.items()}
    lines = []
    for row, results in found.items():
        middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
        total = middle["load_s"] + middle["first_mask_s"]
        figures = [f"{middle['load_s']:.2f}", f"{middle['first_mask_s']:.2f}", f"{total:.2f}"]
        threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
        lines.append(
            [row, options.bits, options.rounds, threads, sizes[row], *figures, f"{middle['peak_MB']:.0f}"]
        )
    for line in ([*COLUMNS], *lines):
        print(*line, sep="  ")
    if options.out is not None:
        with options.out.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, lineterminator="\n").writerows([COLUMNS, *lines])


if __name__ == "__main__":
    main()
