"""One process of a benchmark: ``python -m saqsam.bench.measure ROW FILE IMAGES OUT``.

It runs one row on generated images and writes seconds, memory and masks; a process of its own, so that peak
memory is that row's and no cache of another is warm.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saqsam.bench.peak import peak_bytes
from saqsam.bench.rows import build_row
from saqsam.errors import SaqsamError
from saqsam.export.cases import generated_cases
from saqsam.families.framing import preprocess
from saqsam.segment.predictor import decode, embed, upscale_masks


def measure(row: str, path: Path, images: int) -> tuple[dict[str, Any], list[Any]]:
    """Run one row on ``images`` generated images.

    Returns:
        Wall and processor seconds of the encoder and the decoder by image, prompts by image, and peak memory
        in bytes; and the masks ``(P, H, W)`` bool of each image.
    """
    model = build_row(row, path)
    encoder, decoder, prompts, masks = [], [], [], []
    for case in generated_cases(images):
        pixel_values, frame = preprocess(model, case.pixels)
        start = _now()
        embedding = embed(model, pixel_values)
        middle = _now()
        logits = decode(model, embedding, case.prompts, frame)[0]
        end = _now()
        encoder.append([round(b - a, 5) for a, b in zip(start, middle, strict=True)])
        decoder.append([round(b - a, 5) for a, b in zip(middle, end, strict=True)])
        prompts.append(len(case.prompts))
        masks.append(upscale_masks(logits, frame)[:, 0].numpy())
    return {"encoder": encoder, "decoder": decoder, "prompts": prompts, "peak_bytes": peak_bytes()}, masks


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main(arguments: list[str]) -> int:
    """Run and write ``OUT.json`` and ``OUT.npz``; an error is one line on stderr."""
    row, path, images, out = arguments
    torch.set_grad_enabled(False)
    try:
        figures, masks = measure(row, Path(path), int(images))
    except SaqsamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(f"{out}.json").write_text(json.dumps(figures), encoding="utf-8")
    np.savez_compressed(f"{out}.npz", *masks)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
