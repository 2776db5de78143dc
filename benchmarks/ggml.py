"""ggml's port of SAM beside PyTorch float and saqsam's kernels: a SAM-B with random weights, a CSV row each.

    git clone https://github.com/ggml-org/ggml
    sed -i 's#// print_t_f32("embd_img"#print_t_f32("embd_img"#' ggml/examples/sam/sam.cpp
    cmake -S ggml -B ggml/build -DCMAKE_BUILD_TYPE=Release && cmake --build ggml/build --target sam
    OMP_NUM_THREADS=2 python benchmarks/ggml.py --program ggml/build/bin/sam --rounds 2 --out ggml.csv

Its program takes one picture from pixels to masks and ends, so its row has reading the weights (float16) and
one click's answer in it, a few hundredths of the whole; the other rows are the image encoder alone. With the
second line above it prints the ends of the embedding, which are held against PyTorch's.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from native import measure, write_random_sams
from saqsam.checkpoints.official import write_official
from saqsam.families.framing import preprocess
from saqsam.segment.predictor import embed

_MAGIC = 0x67676D6C
_FLOAT32, _FLOAT16 = 0, 1
_IN_FLOAT32 = ("prompt_encoder", "mask_decoder.iou_token", "mask_decoder.mask_tokens")
"""What these names begin with is read as float32, besides vectors and the table of positions."""
_SHOWN = 10
"""Values of the embedding that the program prints at each end."""


def write_ggml(model: SamModel, directory: Path) -> Path:
    """The weights as the port reads them: numbers, then name, shape and values of each tensor."""
    write_official(model, directory / "sam_vit_b.pth")
    state = torch.load(directory / "sam_vit_b.pth", weights_only=True)
    vision = model.config.vision_config
    sizes = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.output_channels)
    path = directory / "ggml-model-f16.bin"
    with path.open("wb") as file:
        file.write(struct.pack("<7i", _MAGIC, *sizes, 4, _FLOAT16))
        for name, tensor in state.items():
            if name.startswith("prompt_encoder.mask"):
                continue
            whole = tensor.ndim == 1 or name == "image_encoder.pos_embed" or name.startswith(_IN_FLOAT32)
            data = tensor.numpy().astype(np.float32 if whole else np.float16)
            if name == "image_encoder.patch_embed.proj.bias":
                data = data.reshape(1, -1, 1, 1)
            encoded, kind = name.encode(), _FLOAT32 if whole else _FLOAT16
            file.write(struct.pack("<3i", data.ndim, len(encoded), kind))
            file.write(struct.pack(f"<{data.ndim}i", *data.shape[::-1]))
            file.write(encoded + data.tobytes())
    return path


def run_ggml(program: Path, weights: Path, picture: Path, threads: int) -> tuple[dict[str, float], str]:
    """Seconds and processor seconds of the program, and what it printed."""
    command = [program, "-t", str(threads), "-m", weights, "-i", picture, "-o", picture.with_suffix("")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"encoder_seconds": wall, "encoder_cpu_seconds": cpu}, run.stdout


def difference(printed: str, model: SamModel, picture: Path) -> float | None:
    """Largest of the printed values, relative to the largest of the embedding; None if none were."""
    if "sum:" not in printed:
        return None
    shown = printed[printed.index("First & Last") : printed.index("sum:")].splitlines()[1:]
    found = np.array([float(one) for one in re.findall(r"-?\d+\.\d+", " ".join(shown))])
    expected = embed(model, preprocess(model, np.asarray(Image.open(picture)))[0]).main.numpy()
    flat = expected.ravel()
    ends = np.concatenate([flat[:_SHOWN], flat[-_SHOWN:]])
    return float(np.abs(found - ends).max() / np.abs(flat).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    with options.out.open("w", newline="", encoding="utf-8") as file, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_random_sams(directory, ["w4a8"])
        torch.manual_seed(0)
        config = SamConfig()
        config.vision_config.initializer_range = 0.02  # by default it is next to nothing
        model = SamModel(config).eval().requires_grad_(False)
        weights, picture = write_ggml(model, directory), directory / "picture.png"
        pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
        fields = ["row", "round", "threads", "encoder_seconds", "encoder_cpu_seconds", "difference"]
        writer = csv.DictWriter(file, fieldnames=fields)
        writer.writeheader()
        for round_ in range(options.rounds):
            for row in ("torch float", "native", "ggml float16"):
                if row == "ggml float16":
                    found, printed = run_ggml(options.program, weights, picture, threads)
                    found |= {"difference": difference(printed, model, picture)}
                else:
                    found = measure(row, directory / "w4a8", 1, {}, directory / "out")
                    found.pop("peak_bytes")
                writer.writerow({"row": row, "round": round_, "threads": threads, **found})
                file.flush()
                print(row, found, flush=True)


if __name__ == "__main__":
    main()
