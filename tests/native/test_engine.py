"""``engine="native"``: the simulation's masks, and what is said where it cannot compute a model."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from saqsam.api import load
from saqsam.errors import UsageError
from saqsam.export.cases import generated_cases
from saqsam.export.parity import mask_ious
from saqsam.families.framing import preprocess
from saqsam.native import library
from saqsam.native.kernels import load_kernels
from saqsam.native.library import CAP, choose_level, levels_here
from saqsam.native.norm import Norm
from saqsam.segment.predictor import embed

built = pytest.mark.skipif(not levels_here(), reason="the kernels were not built here")


@built
def test_embeddings_and_masks_are_the_simulations(packed_nano: Callable[[str], Path]) -> None:
    path = packed_nano("ptq4sam-s-w4a4")
    native, simulated = load(path, engine="native"), load(path)
    assert native.name.endswith("(native)")
    case = generated_cases(1)[0]
    pixel_values, _ = preprocess(simulated.model, case.pixels)
    expected = embed(simulated.model, pixel_values).main
    torch.testing.assert_close(embed(native.model, pixel_values).main, expected, atol=1e-4, rtol=0)
    points = [[60, 60], [30, 90]]
    masks = [torch.from_numpy(sam.segment(case.pixels, points=points).masks) for sam in (native, simulated)]
    assert min(mask_ious(*(one[:, None] for one in masks))) > 0.99


@built
def test_several_python_threads_at_once(packed_nano: Callable[[str], Path]) -> None:
    model = load(packed_nano("ptq4sam-s-w4a4"), engine="native").model
    threads = torch.get_num_threads()
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    alone = embed(model, pixels).main
    try:
        torch.set_num_threads(3)  # PyTorch keeps it for the threads that are started from now on
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: embed(model, pixels).main, range(6)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, alone) for one in found)


@built
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    """Those of the first process are not in the second, which would wait for them forever."""
    norm = Norm(load_kernels(), torch.ones(64), torch.zeros(64), 1e-6, None)
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        expected = norm.run(x).numpy().tobytes()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if norm.run(x).numpy().tobytes() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(threads)


def test_without_the_library_the_next_engine_is_taken_and_said(
    packed_nano: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "find_library", lambda: None)
    with caplog.at_level(logging.WARNING, "saqsam"):
        sam = load(packed_nano("ptq4sam-s-w4a4"), engine="native")
    assert sam.name.endswith("(onnxruntime)")
    assert "its kernels were not built; install a C++ compiler" in caplog.text
    assert library.describe().startswith("engine 'native': its kernels were not built")


@built
def test_a_level_is_capped_by_the_environment() -> None:
    assert choose_level(environment={CAP: "plain"}) == 0
    assert choose_level(environment={}) == max(levels_here())
    with pytest.raises(UsageError, match=r"the levels are plain, avx2, .*neon-dotprod"):
        choose_level(environment={CAP: "avx9"})


def test_it_wants_a_packed_file() -> None:
    with pytest.raises(UsageError, match="engine 'native' runs packed files"):
        load("nano", engine="native")
