"""``engine="compiled"``: one program for the whole encoder, close to the simulation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny_sam, tiny_config
from tests.families.sam2_models import tiny_config as tiny_sam2_config
from tests.families.sam3_models import tiny_config as tiny_sam3_config
from transformers import Sam2Model, Sam3TrackerModel

from saqsam.api import load, quantize
from saqsam.engines.int8 import convert
from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import sizes_of
from saqsam.sam import Sam
from saqsam.scenes import write_scenes
from saqsam.segment.predictor import embed

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
"""PyTorch's own, when its compiler is imported."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """What another test compiled would be used again."""
    torch.compiler.reset()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of each kind; not to be changed."""
    return packed_with(tmp_path_factory.mktemp("compiled"), 2, [1])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One global block: C++ takes seconds for each loop."""
    return packed_with(tmp_path_factory.mktemp("compiled-small"), 1, [0])


def packed_with(place: Path, blocks: int, in_global: list[int]) -> Path:
    scenes = write_scenes(place / "scenes", 2, 12, size=(64, 64)).parent
    path = place / "tiny.safetensors"
    files = (scenes / "images", scenes / "instances.json")
    config = tiny_config()
    vision = config.vision_config
    vision.num_hidden_layers, vision.global_attn_indexes = blocks, in_global
    quantize(Sam(make_tiny_sam(config=config), "tiny"), "ptq4sam-s-w8a8", *files).save(path)
    return path


def pixels_for(model: Model) -> torch.Tensor:
    side = sizes_of(model).preprocessing.side
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_encoder_is_one_graph(packed: Path) -> None:
    """Each break would send a GPU back to Python at every quantizer."""
    model = load(packed).model
    convert(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch._dynamo.explain(model.vision_encoder)(pixels_for(model))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def small_sam2() -> Sam2Model:
    config = tiny_sam2_config()
    hiera = config.vision_config.backbone_config
    hiera.blocks_per_stage, hiera.global_attention_blocks = [1, 1, 1, 1], [0]
    return Sam2Model(config)


def small_sam3() -> Sam3TrackerModel:
    config = tiny_sam3_config()
    config.vision_config.backbone_config.num_hidden_layers = 2
    return Sam3TrackerModel(config)


@pytest.mark.parametrize("make", [small_sam2, small_sam3])
def test_an_encoder_with_levels_gives_all_of_them(make: Callable[[], Any], tmp_path: Path) -> None:
    """In half precision, without the compiler itself, which takes a minute for it on a CPU."""
    scenes = write_scenes(tmp_path / "scenes", 1, 12, size=(64, 64)).parent
    path = tmp_path / "tiny.safetensors"
    model = Sam(make().eval().requires_grad_(False), "tiny")
    quantize(model, "rtn-w8a8", scenes / "images", scenes / "instances.json").save(path)
    simulated, compiled = load(path).model, load(path, engine="compiled").model
    pixels = pixels_for(simulated)
    with torch.compiler.set_stance("force_eager"):
        levels = embed(compiled, pixels).tensors
    for level, expected in zip(levels, embed(simulated, pixels).tensors, strict=True):
        assert level.dtype == torch.float32
        assert 0 < float((level - expected).norm() / expected.norm()) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU with a C++ compiler")
def test_embeddings_are_near_the_simulations(small: Path) -> None:
    simulated, compiled = load(small), load(small, engine="compiled")
    assert compiled.name.endswith("(compiled)")
    pixels = pixels_for(simulated.model)
    expected, found = embed(simulated.model, pixels).main, embed(compiled.model, pixels).main
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1
    assert torch.equal(embed(compiled.model, pixels).main, found)


def test_without_a_compiler_it_says_what_is_missing(packed: Path) -> None:
    from torch._inductor import config

    sam = load(packed, engine="compiled")
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(UsageError, match=r"cannot compile on cpu here .*; install a compiler"),
    ):
        embed(sam.model, pixels_for(sam.model))
