"""What it saves not to project the padding of windows: one windowed block of a float ViT-B at 1024 px.

    OMP_NUM_THREADS=2 python benchmarks/windows.py

``transformers``' own block and saqsam's way through it take turns on the same tokens; random weights.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from transformers import SamConfig, SamModel

from saqsam.families.sam_encoder import SamEncoder
from saqsam.freed_memory import keep_freed_memory

ROUNDS = 15


@torch.inference_mode()
def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    config = SamConfig()
    config.vision_config.num_hidden_layers = 1
    config.vision_config.global_attn_indexes = []
    config.vision_config.initializer_range = 0.02
    model = SamModel._from_config(config, attn_implementation="sdpa").eval()
    (layer,) = model.vision_encoder.layers
    layer.attn.qkv.bias.normal_()
    tokens = torch.randn(1, 64, 64, config.vision_config.hidden_size)
    ways = {"transformers": layer, "saqsam": lambda x: SamEncoder(model).run_block(layer, x)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.perf_counter()
            run(tokens)
            seconds[way].append(time.perf_counter() - start)
    difference = float((ways["saqsam"](tokens) - layer(tokens)).abs().max())
    for way, times in seconds.items():
        print(f"{way}: {median(times):.3f} s, fastest {min(times):.3f} s")
    print(f"largest difference: {difference:.1e}")


if __name__ == "__main__":
    main()
