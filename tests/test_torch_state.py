"""What the caller has set in torch changes nothing that saqsam computes, and is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny_sam
from torch.nn.attention import SDPBackend, sdpa_kernel

import saqsam as sq
from saqsam.scenes import write_scenes


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
        assert get() == value, "not left as it was"
    finally:
        put(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "float64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "precision": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "backends": lambda: backends_own(),
}


@contextmanager
def backends_own() -> Iterator[None]:
    """Half precision for one backend, by its own setting, and no kernel of attention for this device."""
    matmul = torch.backends.mkldnn.matmul
    with (
        setting(
            lambda: matmul.fp32_precision, lambda value: setattr(matmul, "fp32_precision", value), "bf16"
        ),
        sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    ):
        yield
        assert not torch.backends.cuda.math_sdp_enabled()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 1, 5, size=(64, 64))
    return root


def computed(model: sq.Sam, scenes: Path, out: Path) -> tuple[bytes, Any, Any]:
    """A packed file with learned units, the masks of its model, and its figures."""
    settings = ["calibration.images=1", "calibration.prompts=2", "clip.images=1", "clip.prompts=1"]
    settings += ["reconstruct.iterations=1", "reconstruct.encoder=none", "reconstruct.prompts=1"]
    recipe = sq.load_recipe("saq-sam-w4a4", settings=settings)
    made = sq.quantize(model, recipe, scenes / "images", scenes / "instances.json")
    made.save(out)
    found = sq.load(out).segment(scenes / "images" / "000001.png", boxes=[[10, 10, 50, 50]])
    assert not found.low_res_logits.is_inference()
    figures = sq.evaluate(made, scenes / "images", scenes / "instances.json").to_dict()
    del figures["seconds"]
    return out.read_bytes(), found.low_res_logits.tolist(), figures


@pytest.fixture(scope="module")
def model() -> sq.Sam:
    return sq.Sam(make_tiny_sam(), "tiny")


@pytest.fixture(scope="module")
def plain(model: sq.Sam, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any, Any]:
    return computed(model, scenes, tmp_path_factory.mktemp("plain") / "tiny.safetensors")


@pytest.mark.parametrize(
    "states", ["autocast float16 gradients", "float64 device precision", "inference backends"]
)
def test_results_are_the_same_bit_for_bit(
    model: sq.Sam, scenes: Path, plain: tuple[bytes, Any, Any], tmp_path: Path, states: str
) -> None:
    with ExitStack() as stack:
        for state in states.split():
            stack.enter_context(STATES[state]())
        before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device()
        found = computed(model, scenes, tmp_path / "tiny.safetensors")
        after = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device()
    assert found == plain
    assert after == before
