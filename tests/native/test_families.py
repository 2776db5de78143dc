"""Encoders of SAM 2, SAM 3 and SAM-HQ on the kernels: the frozen PyTorch model's values, given each input."""

from __future__ import annotations

import subprocess
import sys
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
from saqsam.engines.load import integer_model, native_model
from saqsam.errors import ImageError
from saqsam.export.cases import generated_cases
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.families.record import Answers
from saqsam.families.registry import decoder_of, encoder_of, family_of
from saqsam.native import families
from saqsam.native.encoder_model import NativeEncoderSam
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
POINTS = [[20.0, 20], [60, 50]]
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
    assert own is not None
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
    """Of two pictures: what the image alone decides is kept for the latest one only."""
    native = api.load(quantized.path, engine="native")
    assert native.engine == "native"
    for seed in (5, 6):
        picture = make_scene(np.random.default_rng(seed), (96, 128)).image
        for given in ({"boxes": BOXES}, {"points": POINTS, "multimask_output": True}):
            one, two = (sam.segment(picture, **given) for sam in (quantized.sam, native))
            close = 1e-3 * float(one.low_res_logits.abs().max())
            np.testing.assert_allclose(one.low_res_logits, two.low_res_logits, atol=close, rtol=0)
            np.testing.assert_allclose(one.iou_scores, two.iou_scores, atol=1e-3)
            if one.object_scores is not None and two.object_scores is not None:
                np.testing.assert_allclose(one.object_scores, two.object_scores, atol=1e-3)


def test_what_computes_a_sam_2_asks_for_no_onnx() -> None:
    """In a process that has imported nothing yet."""
    words = "import sys; sys.modules.update(onnx=None, onnxruntime=None); import saqsam.engines.load; "
    words += "import saqsam.native.decoder, saqsam.native.sam2_model"
    subprocess.run([sys.executable, "-c", words], check=True)


@built
@pytest.mark.parametrize("quantized", [("SAM 2", "rtn-w6a6"), ("SAM 3", "rtn-w6a6")], indirect=True, ids=str)
def test_without_onnx_a_sam_2_is_computed_whole(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert api.load(quantized.path, engine="native").segment(np.zeros((64, 64, 3), np.uint8), boxes=BOXES)
    assert "instead" not in caplog.text


@built
@pytest.mark.parametrize("quantized", [("SAM 2", "rtn-w6a6")], indirect=True, ids=str)
def test_a_family_that_nobody_described_is_the_next_engines(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(families._ON_KERNELS, "SAM 2")
    assert api.load(quantized.path, engine="native").engine == "onnxruntime"
    assert "it is of the family SAM 2" in caplog.text


@built
@pytest.mark.parametrize("quantized", [("SAM 2", "rtn-w6a6"), ("SAM-HQ", "rtn-w6a6")], indirect=True, ids=str)
def test_a_decoder_that_is_not_described_is_onnx_runtimes(quantized: Quantized) -> None:
    model = quantized.sam.model
    site = next(one for one in quantized.packed.activations if "transformer" in one)
    fewer = {name: grid for name, grid in quantized.packed.activations.items() if name != site}
    packed = replace(quantized.packed, activations=fewer)
    native = native_model(packed, model.config, "x")
    assert isinstance(native, NativeEncoderSam)
    expected = integer_model(packed, model.config, "x")
    one, two = (decoded(each, embed(native, quantized.pixels)) for each in (native, expected))
    for x, y in zip(one.tensors, two.tensors, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4 * float(y.abs().max()), rtol=0)


def decoded(model: Any, embedding: Embedding) -> Answers:
    boxes = torch.tensor([BOXES])
    return decoder_of(model).answer(embedding, input_boxes=boxes)


@built
@pytest.mark.parametrize("quantized", [("SAM 2", "rtn-w6a6")], indirect=True, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_mask_that_is_not_stable_is_switched_as_the_models_setting_says(
    quantized: Quantized, threshold: float
) -> None:
    config = type(quantized.sam.model.config)(**quantized.packed.config)
    config.mask_decoder_config.dynamic_multimask_stability_thresh = threshold
    native = native_model(quantized.packed, config, "x")
    decoder: Any = quantized.sam.model.mask_decoder
    embedding = embed(native, quantized.pixels)
    before, decoder.dynamic_multimask_stability_thresh = decoder.dynamic_multimask_stability_thresh, threshold
    try:
        one, two, first = (
            decoder_of(model).answer(embedding, input_boxes=torch.tensor([BOXES]), may_switch=switch)
            for model, switch in ((quantized.sam.model, True), (native, True), (native, False))
        )
    finally:
        decoder.dynamic_multimask_stability_thresh = before
    torch.testing.assert_close(one.masks, two.masks, atol=1e-3 * float(one.masks.abs().max()), rtol=0)
    torch.testing.assert_close(one.scores, two.scores, atol=1e-4, rtol=0)
    assert torch.equal(first.masks, two.masks) == (threshold == 0.0)


@built
def test_an_embedding_of_another_model_is_refused(quantized: Quantized) -> None:
    """Kernels would read what lies behind it."""
    native = api.load(quantized.path, engine="native").model
    if isinstance(native, NativeEncoderSam):
        pytest.skip("ONNX Runtime decodes, and looks itself")
    embedding = embed(native, quantized.pixels)
    fine, middle = embedding.features
    for other in (
        Embedding(embedding.main[:, :, 1:], (fine, middle)),
        Embedding(embedding.main, (fine[..., ::2], middle)),
    ):
        with pytest.raises(ImageError, match="embedding: expected one image's"):
            decoded(native, other)


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
    assert own is not None
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
