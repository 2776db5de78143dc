"""Bytes of packed files of the published sizes of SAM 2.1, SAM-HQ and SAM 3, at four and at eight bits.

    python benchmarks/family_sizes.py [tiny small base_plus large hq_b hq_l hq_h sam3] [--bits 4 8]

Random weights serve: a packed file is as long whatever its values are. Nothing is calibrated: every grid has
some range, and what is measured is the file that ``Sam.save`` would write of such a model.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

SIZES = {
    "tiny": (96, [1, 2, 7, 2], [1, 2, 4, 8], [8, 4, 14, 7], [5, 7, 9], 7),
    "small": (96, [1, 2, 11, 2], [1, 2, 4, 8], [8, 4, 14, 7], [7, 10, 13], 7),
    "base_plus": (112, [2, 3, 16, 3], [2, 4, 8, 16], [8, 4, 14, 7], [12, 16, 20], 14),
    "large": (144, [2, 6, 36, 4], [2, 4, 8, 16], [8, 4, 16, 8], [23, 33, 43], 7),
}
"""Width, and by stage blocks, heads and windows; blocks with global attention; side of the position table."""
HQ_SIZES = {
    "hq_b": (768, 12, 12, [2, 5, 8, 11]),
    "hq_l": (1024, 24, 16, [5, 11, 17, 23]),
    "hq_h": (1280, 32, 16, [7, 15, 23, 31]),
}
"""Width, blocks, heads; blocks with global attention."""


def random_sam_hq(size: str) -> Any:
    """A model of a published size with random weights."""
    import torch
    from transformers import SamHQConfig

    from saqsam.families.sam_hq import SAM_HQ

    width, blocks, heads, everywhere = HQ_SIZES[size]
    config = SamHQConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "global_attn_indexes": everywhere,
            "mlp_dim": 4 * width,
        },
        mask_decoder_config={"vit_dim": width, "layer_norm_eps": 1e-5},
    )
    torch.manual_seed(0)
    return SAM_HQ.model_class(config).eval().requires_grad_(False)


def random_sam3() -> Any:
    """The tracker in its one published size, with random weights."""
    import torch
    from transformers import Sam3TrackerConfig

    from saqsam.families.sam3 import SAM3
    from saqsam.families.sam3_config import FACTORS

    config = Sam3TrackerConfig(vision_config={"scale_factors": list(FACTORS)})
    with torch.device("meta"):
        model = SAM3.model_class(config)
    model.to_empty(device="cpu").eval().requires_grad_(False)
    SAM3.fill_tables(model)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.uniform_(-0.05, 0.05, generator=generator)
    return model


def random_sam2(size: str, side: int = 1024) -> Any:
    """A model of a published size with random weights, for images of ``side`` pixels."""
    import torch
    from transformers import Sam2Config, Sam2Model

    width, blocks, heads, windows, everywhere, table = SIZES[size]
    widths = [width * 2**stage for stage in range(4)]
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": width,
                "image_size": [side, side],
                "num_attention_heads": heads[0],
                "blocks_per_stage": blocks,
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": heads,
                "window_size_per_stage": windows,
                "global_attention_blocks": everywhere,
                "window_positional_embedding_background_size": [table, table],
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side // scale] * 2 for scale in (4, 8, 16)],
        },
        prompt_encoder_config={"image_size": side},
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = Sam2Model(config).eval().requires_grad_(False)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(
        model.shared_image_embedding.positional_embedding
    )
    return model


def random_model(size: str) -> Any:
    """Of any of the sizes."""
    if size == "sam3":
        return random_sam3()
    return random_sam_hq(size) if size in HQ_SIZES else random_sam2(size)


def packed_bytes(model: Any, bits: int) -> int:
    """Bytes of the packed file of a model with every site on some affine grid."""
    import torch

    from saqsam.grids.affine import Affine, affine_parameters
    from saqsam.models.attach import all_quantizers, attach
    from saqsam.models.lookup import layer_at
    from saqsam.models.plan import plan_sites
    from saqsam.models.sites import WEIGHT
    from saqsam.pack.convert import to_packed
    from saqsam.pack.file import write_packed
    from saqsam.recipe import load_recipe

    recipe = load_recipe(f"rtn-w{bits}a{bits}")
    attach(model, plan_sites(model, recipe))
    for site, quantizer in all_quantizers(model).items():
        low, high = torch.tensor(-1.0), torch.tensor(1.0)
        if site.role == WEIGHT:
            weight = layer_at(model, site).weight.flatten(1)
            low, high = weight.amin(1), weight.amax(1)
        quantizer.set(Affine(bits, *affine_parameters(low, high, bits)))
        quantizer.freeze()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_packed(path, to_packed(model, recipe, {}))
        return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=[*SIZES, *HQ_SIZES, "sam3"])
    parser.add_argument("--bits", nargs="*", type=int, default=[4, 8])
    given = parser.parse_args()
    for size in given.sizes:
        for bits in given.bits:
            model = random_model(size)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            found = packed_bytes(model, bits)
            print(f"{size}: {parameters / 1e6:.2f} M parameters, W{bits} {found / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
