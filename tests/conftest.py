"""Fixtures shared by the whole suite: a tiny untrained SAM and, where present, real COCO images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from transformers import SamConfig, SamModel

from saqsam import api
from saqsam.calibrate.images import CalibrationImage
from saqsam.prompts.prompts import Prompts
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.shipped.embedded import embedded_sam

# Tiny models: more threads only wait for each other, thirty times as long on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

# The same examples every time, so that a failure is met by whoever caused it;
# HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", derandomize=True, max_examples=40)
settings.register_profile("explore", derandomize=False, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@dataclass(frozen=True)
class Coco50:
    """Fifty real COCO images with their annotations."""

    images: Path
    annotations: Path


@pytest.fixture(scope="session")
def coco50() -> Coco50:
    """The real images, named by SAQSAM_COCO50 or found beside the checkout; else the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco50"
    root = Path(os.environ.get("SAQSAM_COCO50", beside))
    if not (root / "annotations" / "instances.json").is_file():
        pytest.skip("coco50 is not on this machine (set SAQSAM_COCO50 to its directory)")
    return Coco50(root / "images", root / "annotations" / "instances.json")


def tiny_config() -> SamConfig:
    """SAM's structure at 64 px: windowed and global blocks, zero-padded windows, a two-way decoder."""
    return SamConfig(
        vision_config={
            "hidden_size": 48,
            "output_channels": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1, 3],
            "num_pos_feats": 16,
            "mlp_dim": 96,
            "initializer_range": 0.05,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
            "layer_norm_eps": 1e-5,
        },
    )


def make_tiny_sam(seed: int = 0, config: SamConfig | None = None) -> SamModel:
    """An untrained tiny SAM whose every parameter is non-zero, so that no path through it is dead."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SamModel(config or tiny_config())
        for parameter in model.parameters():
            if parameter.ndim == 1 or bool((parameter == 0).all()):
                parameter.data.add_(torch.randn_like(parameter) * 0.02)
        table = torch.randn_like(model.shared_image_embedding.positional_embedding)
        model.shared_image_embedding.positional_embedding.data.copy_(table)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tiny_sam() -> SamModel:
    """A fresh tiny untrained SAM for every test."""
    return make_tiny_sam()


@pytest.fixture
def nano() -> SamModel:
    """A fresh copy of the small trained SAM that is shipped, for every test."""
    return embedded_sam("nano")


@pytest.fixture(scope="session")
def float_sam() -> Sam:
    """The embedded model with its public face; not to be changed."""
    return api.load("nano")


@pytest.fixture(scope="session")
def packed_nano(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``packed_nano("rtn-w8a8")``: the embedded model quantized by a recipe, one file for all tests.

    Calibrated on three scenes. The file is not to be changed.
    """
    root = tmp_path_factory.mktemp("packed-nano")

    def file_of(recipe: str) -> Path:
        path = root / f"nano-{recipe}.safetensors"
        if not path.exists():
            annotations = write_scenes(root / "scenes", 3, 12)
            api.quantize(api.load("nano"), recipe, root / "scenes" / "images", annotations).save(path)
        return path

    return file_of


@pytest.fixture(scope="session")
def packed_sam(packed_nano: Callable[[str], Path]) -> Sam:
    """The embedded model at 8 bits, loaded from its file (``file`` says where); not to be changed."""
    return api.load(packed_nano("rtn-w8a8"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[CalibrationImage, ...]:
    """Six generated pictures of 128 px with the boxes of their objects, at least two of each."""
    root = tmp_path_factory.mktemp("scenes")
    found: list[CalibrationImage] = []
    for seed in range(100):
        scene = make_scene(np.random.default_rng([2025, seed]), (128, 128))
        if len(scene) >= 2 and len(found) < 6:
            path = root / f"{seed:02}.png"
            Image.fromarray(scene.image).save(path)
            found.append(CalibrationImage(path, Prompts(boxes=torch.from_numpy(scene.boxes))))
    return tuple(found)
