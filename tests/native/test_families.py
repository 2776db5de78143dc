"""Encoders of SAM 2, SAM 3 and SAM-HQ on the kernels: the frozen PyTorch model's values, given each input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.families.sam2_models import tiny_sam2
from tests.families.sam3_models import tiny_sam3
from tests.families.tiny_sam_hq import plain_sam_hq
from torch import Tensor

from saqsam import api
from saqsam.export.cases import generated_cases
from saqsam.families.framing import preprocess
from saqsam.families.registry import encoder_of, family_of
from saqsam.native.families import on_kernels
from saqsam.native.kernels import Kernels
from saqsam.native.library import levels_here
from saqsam.native.supported import first_problem
from saqsam.pack.file import PackedModel, read_packed
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.predictor import embed

MODELS: dict[str, Callable[[], Any]] = {
    "SAM 2": tiny_sam2,
    "SAM 3": tiny_sam3,
    "SAM-HQ": plain_sam_hq,
}
BOXES = [[10.0, 20, 80, 90], [5, 5, 50, 60], [40, 30, 60, 120]]
built = pytest.mark.skipif(not levels_here(), reason="the kernels were not built here")
RECIPES = ("rtn-w6a6", "ptq4sam-s-w4a4")


@dataclass(frozen=True)
class Quantized:
    """A model, what is in its file, and the pixels of a scene."""

    sam: Sam
    packed: PackedModel
    path: Path
    pixels: Tensor


@pytest.fixture(scope="module", params=[(name, recipe) for name in MODELS for recipe in RECIPES], ids=str)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    name, recipe = request.param
    root = tmp_path_factory.mktemp("native")
    annotations = write_scenes(root / "scenes", 1, 12)
    MODELS[name]().save_pretrained(root / "mine")
    sam = api.quantize(api.load(root / "mine"), recipe, root / "scenes" / "images", annotations)
    sam.save(root / "packed.safetensors")
    pixels, _ = preprocess(sam.model, generated_cases(1)[0].pixels)
    return Quantized(sam, read_packed(root / "packed.safetensors"), root / "packed.safetensors", pixels)


def native_encoder(quantized: Quantized, kernels: Kernels) -> Any:
    own = on_kernels(family_of(quantized.sam.model))
    source = own.source(quantized.packed)
    assert first_problem(own.problems(source)) == ""
    return own.encoder(source, kernels)


def tokens_of(x: Tensor) -> Tensor:
    """``(1, H, W, C)`` as blocks on the kernels take it, which work in place."""
    return x.flatten(0, 2).clone(memory_format=torch.contiguous_format)


def test_every_block_gives_the_models_values(quantized: Quantized, kernels: Kernels) -> None:
    """What a block adds to its input are sums of codes: were one of them different, it would be seen."""
    encoder, native = encoder_of(quantized.sam.model), native_encoder(quantized, kernels)
    with torch.no_grad():
        x = encoder.start(quantized.pixels)
        assert torch.equal(native.start(quantized.pixels), x.flatten(0, 2))
        for index, (block, own) in enumerate(zip(encoder.blocks, native.blocks, strict=True)):
            found = own.run(tokens_of(x))
            x = encoder.run_block(block, x)
            different = (found != x.flatten(0, 2)).any(1)
            assert float(different.float().mean()) <= 0.02, index


def test_from_pixels_the_embedding_is_the_models(quantized: Quantized, kernels: Kernels) -> None:
    expected = embed(quantized.sam.model, quantized.pixels).tensors
    found = native_encoder(quantized, kernels).encode(quantized.pixels)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@built
def test_masks_are_the_simulations(quantized: Quantized) -> None:
    """Of two pictures: the decoder, of ONNX Runtime, keeps what it makes of the latest image only."""
    native = api.load(quantized.path, engine="native")
    assert native.engine == "native"
    for seed in (5, 6):
        picture = make_scene(np.random.default_rng(seed), (96, 128)).image
        one, two = (sam.segment(picture, boxes=BOXES) for sam in (quantized.sam, native))
        close = 1e-3 * float(one.low_res_logits.abs().max())
        np.testing.assert_allclose(one.low_res_logits, two.low_res_logits, atol=close, rtol=0)
        np.testing.assert_allclose(one.iou_scores, two.iou_scores, atol=1e-3)


@built
def test_a_batch_is_its_images_one_by_one(quantized: Quantized) -> None:
    model = api.load(quantized.path, engine="native").model
    pixels = torch.cat([quantized.pixels, quantized.pixels.flip(-1)])
    together = embed(model, pixels).split()
    for one, found in zip(pixels.split(1), together, strict=True):
        for x, y in zip(embed(model, one).tensors, found.tensors, strict=True):
            assert torch.equal(x, y)


def test_what_is_float_is_named(quantized: Quantized) -> None:
    """A part that a recipe leaves float is not computed by the kernels, wherever it is."""
    own = on_kernels(family_of(quantized.sam.model))
    encoder = [site for site in quantized.packed.activations if site.startswith("vision_encoder")]
    for site in encoder[:: max(1, len(encoder) // 12)]:
        fewer = {name: grid for name, grid in quantized.packed.activations.items() if name != site}
        source = own.source(replace(quantized.packed, activations=fewer))
        assert first_problem(own.problems(source)) == f"{site} is float"
    for path in list(quantized.packed.weights)[::9]:
        if path.startswith("vision_encoder"):
            weights = {name: one for name, one in quantized.packed.weights.items() if name != path}
            source = own.source(replace(quantized.packed, weights=weights))
            assert first_problem(own.problems(source)) == f"the weight of {path} is float"
