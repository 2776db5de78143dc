"""What quantizing a SAM-B costs beside the float passes it needs, and how large the packed file is.

    python benchmarks/sam_b.py --images FOLDER --count 32 --prompts 16
    python benchmarks/sam_b.py --images FOLDER --count 32 --prompts 16 --model tiny

The second does it for a SAM 2.1 of that size, whose float passes are saqsam's own.

Random weights and random boxes serve: cost does not depend on their values. The float passes (32 image
encodings, and decoding the same prompts, through transformers' own SamModel with fused attention) and the
quantization run in the same process, one after the other, with glibc told to keep large blocks (the
environment variables below), without which PyTorch spends a third of its time on page faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def random_sam_b():
    import torch
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    config = SamConfig()
    config.vision_config.initializer_range = 0.02
    config.mask_decoder_config.layer_norm_eps = 1e-5
    model = SamModel._from_config(config, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def random_model(name: str):
    from family_sizes import random_sam2

    return random_sam_b() if name == "sam_b" else random_sam2(name)


def write_boxes(folder: Path, count: int, boxes: int, file: Path) -> None:
    """A COCO file that asks ``boxes`` random boxes on each of the folder's first ``count`` images."""
    from saqsam.images.files import IMAGE_SUFFIXES, open_image

    draw = random.Random(0)
    images, annotations = [], []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    for number, path in enumerate(paths[:count], 1):
        height, width = open_image(path).pixels.shape[:2]
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for _ in range(boxes):
            w, h = draw.uniform(0.05, 0.9) * width, draw.uniform(0.05, 0.9) * height
            x, y = draw.uniform(0, width - w), draw.uniform(0, height - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "thing"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def float_seconds(model, images) -> tuple[float, float]:
    """Seconds of encoding every image once, and of decoding its prompts."""
    from saqsam.calibrate.images import pixels_of
    from saqsam.segment.predictor import decode, embed

    encoding = decoding = 0.0
    for number, image in enumerate(images):
        pixels, frame = pixels_of(model, image)
        start = time.perf_counter()
        embedding = embed(model, pixels)
        encoding += time.perf_counter() - start
        start = time.perf_counter()
        decode(model, embedding, image.prompts, frame)
        decoding += time.perf_counter() - start
        print(f"float {number + 1}: {encoding:.1f} s encoding, {decoding:.1f} s decoding", flush=True)
    return encoding, decoding


def told(stage: str, done: int, total: int) -> None:
    """A line when a stage ends, and a few on the way."""
    if done == total or (done and done % 8 == 0):
        print(f"{time.strftime('%H:%M:%S')} {stage}: {done}/{total}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--recipe", default="saq-sam-star-w4a4")
    parser.add_argument("--cache-gb", type=float, help="activations beyond it go to files; see quantize")
    parser.add_argument("--set", action="append", default=[], help="a key of the recipe and its value")
    parser.add_argument("--run", type=Path, help="folder from which a run cut short goes on")
    parser.add_argument("--model", default="sam_b", choices=["sam_b", "tiny", "small", "base_plus", "large"])
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    import torch

    from saqsam import api
    from saqsam.recipe import load_recipe
    from saqsam.sam import Sam

    torch.set_num_threads(2)
    model = random_model(options.model)
    settings = (
        f"calibration.images={options.count}",
        f"calibration.prompts={options.prompts}",
        *options.set,
    )
    recipe = load_recipe(options.recipe, settings=settings)
    with tempfile.TemporaryDirectory() as directory:
        annotations = Path(directory) / "boxes.json"
        write_boxes(options.images, options.count, options.prompts, annotations)
        images = api.calibration_images(recipe, options.images, annotations)
        encoding, decoding = float_seconds(model, images)
        start = time.perf_counter()
        packed = api.quantize(
            Sam(model, options.model),
            recipe,
            options.images,
            annotations,
            progress=told,
            run_dir=options.run,
            cache_gb=options.cache_gb,
        )
        seconds = time.perf_counter() - start
        file = Path(directory) / "b.safetensors"
        packed.save(file)
        size = file.stat().st_size / 1e6
    prompts = sum(len(image.prompts) for image in images)
    print(f"{len(images)} images, {prompts} prompts, {packed.records['encoder_passes']} encoder passes")
    print(f"float: encoding {encoding:.1f} s, decoding {decoding:.1f} s")
    print(f"{recipe.name} {recipe.bits}: {seconds:.1f} s = {seconds / (encoding + decoding):.2f} x float,")
    print(f"  {seconds / encoding:.2f} x the encoding alone")
    for stage, spent in packed.log.seconds.items() if packed.log else ():
        print(f"  {stage}: {spent:.1f} s")
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, file {size:.1f} MB"
    )


if __name__ == "__main__":
    main()
