"""On a GPU: the masks of the CPU, int8 equal to the simulation, calibration and learning."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import saqsam as sq
from saqsam.scenes import write_scenes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 3, 5).parent


def masks(sam: sq.Sam, scenes: Path) -> np.ndarray:
    return sam.segment(scenes / "images" / "000001.png", boxes=[[20, 20, 90, 90], [40, 10, 120, 60]]).masks


def near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one & other).sum() / (one | other).sum() > 0.98)


def test_float_and_packed_masks_are_those_of_the_cpu(
    scenes: Path, packed_nano: Callable[[str], Path]
) -> None:
    for source in ("nano", packed_nano("rtn-w8a8")):
        assert near(masks(sq.load(source, device="cuda"), scenes), masks(sq.load(source), scenes))


def test_int8_gives_the_simulations_masks_bit_for_bit(
    scenes: Path, packed_nano: Callable[[str], Path]
) -> None:
    path = packed_nano("rtn-w8a8")
    simulated, integers = (sq.load(path, device="cuda", engine=engine) for engine in ("torch", "int8"))
    assert np.array_equal(masks(simulated, scenes), masks(integers, scenes))


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles with a C++ compiler")
def test_compiled_masks_are_near(scenes: Path, packed_nano: Callable[[str], Path]) -> None:
    path = packed_nano("rtn-w8a8")
    assert near(masks(sq.load(path, device="cuda", engine="compiled"), scenes), masks(sq.load(path), scenes))


@pytest.mark.parametrize("recipe", ["saq-sam-star-w4a4", "saq-sam-w4a4", "best-closed-form-w4a4"])
def test_a_model_is_quantized_on_the_gpu_and_is_the_same_from_its_file(
    recipe: str, scenes: Path, tmp_path: Path
) -> None:
    settings = ["calibration.images=2", "calibration.prompts=2", "clip.images=1", "clip.prompts=1"]
    chosen = sq.load_recipe(recipe, settings=[*settings, "reconstruct.iterations=2"])
    files = scenes / "images", scenes / "instances.json"
    made = sq.quantize(sq.load("nano", device="cuda"), chosen, *files)
    made.save(tmp_path / "made.safetensors")
    again = sq.load(tmp_path / "made.safetensors", device="cuda")
    assert np.array_equal(masks(made, scenes), masks(again, scenes))
    assert sq.verify(tmp_path / "made.safetensors").ok
