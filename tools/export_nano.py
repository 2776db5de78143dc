"""Write a training checkpoint into the package: fp16 weights and the configuration.

python tools/export_nano.py RUN/last.pt src/saqsam/shipped/assets [--name nano-sam2]      # averaged weights
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import Sam2Config, SamConfig

from saqsam.files import atomic_write

TIED = "prompt_encoder.shared_embedding.positional_embedding"
KEPT = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


def plain_config(config: dict) -> dict:
    """The settings that describe the architecture, without what transformers adds to every config."""
    kind = Sam2Config if config.get("model_type") == "sam2" else SamConfig
    kept = {part: _plain(config[part], kind().to_dict()[part]) for part in KEPT}
    if kind is SamConfig:
        kept["vision_config"]["scale"] = 1.0
    return kept


def _plain(part: dict, reference: dict) -> dict:
    dropped = {"dtype", "transformers_version", "_name_or_path", "id2label", "label2id", "architectures"}
    return {
        k: _plain(v, reference[k]) if isinstance(v, dict) else v
        for k, v in part.items()
        if k in reference and k not in dropped
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name", default="nano", help="of the files")
    parser.add_argument("--weights", choices=("average", "model"), default="average")
    options = parser.parse_args()
    saved = torch.load(options.checkpoint, weights_only=True)
    state = {k: v.half().contiguous() for k, v in saved[options.weights].items() if k != TIED}
    options.directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.directory / f"{options.name}.safetensors") as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt", "step": str(saved["step"])}))
    with atomic_write(options.directory / f"{options.name}.json") as temporary:
        temporary.write_text(json.dumps(plain_config(saved["config"]), indent=1, sort_keys=True) + "\n")
    print(f"step {saved['step']}: {sum(v.numel() for v in state.values())} numbers")


if __name__ == "__main__":
    main()
