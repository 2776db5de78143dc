"""AHCPTQ's grids from learning to the file and back: what was evaluated is what is stored."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from saqsam import api
from saqsam.errors import CorruptCheckpoint, InvariantError, UsageError
from saqsam.graphs.source import Source
from saqsam.grids.grouped import Grouped
from saqsam.grids.hybrid import Hybrid
from saqsam.models.attach import all_quantizers
from saqsam.pack.file import read_packed
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

SETTINGS = ("calibration.images=2", "calibration.prompts=2", "reconstruct.iterations=10")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sam, Path]:
    """A tiny SAM quantized by the recipe, and its file."""
    from tests.conftest import make_tiny_sam

    place = tmp_path_factory.mktemp("ahcptq")
    truth = write_scenes(place, 2, seed=3, size=(64, 64))
    recipe = load_recipe("ahcptq-w4a4", settings=SETTINGS)
    sam = api.quantize(Sam(make_tiny_sam(), "tiny"), recipe, place / "images", truth)
    file = place / "tiny.safetensors"
    sam.save(file)
    return sam, file


def test_the_file_gives_back_the_same_grids_and_the_same_numbers(made: tuple[Sam, Path]) -> None:
    sam, file = made
    packed = read_packed(file)
    kinds = [grid.grid for grid in packed.activations.values()]
    assert kinds.count("grouped") > 10
    assert kinds.count("hybrid") > 2
    loaded: SamModel = api.load(file).model
    own, other = all_quantizers(sam.model), all_quantizers(loaded)
    for site, quantizer in own.items():
        found = other[site]
        assert quantizer.grid.to_packed() == found.grid.to_packed(), site.name
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (m.vision_encoder(pixels).last_hidden_state for m in (sam.model, loaded))
    assert torch.allclose(one, two, atol=1e-6)


def test_at_most_four_groups_and_sixteen_values(made: tuple[Sam, Path]) -> None:
    sam, _ = made
    for site, quantizer in all_quantizers(sam.model).items():
        if isinstance(grid := quantizer.grid, Grouped):
            assert 1 <= grid.scales.numel() <= 4, site.name
            assert sorted(grid.groups.unique().tolist()) == list(range(grid.scales.numel()))
        if isinstance(grid, Hybrid):
            assert len(grid.levels()) == 16


def test_learning_helps_and_steps_are_recorded(made: tuple[Sam, Path]) -> None:
    units = made[0].records["units"]
    assert any(unit["kept"] == "learned" and unit["after"] < unit["before"] for unit in units)


def test_a_flipped_bit_is_refused(made: tuple[Sam, Path], tmp_path: Path) -> None:
    data = bytearray(made[1].read_bytes())
    data[len(data) // 2] ^= 4
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(data)
    with pytest.raises(CorruptCheckpoint):
        read_packed(bad)


def test_channels_without_a_grid_cannot_be_packed(made: tuple[Sam, Path], tmp_path: Path) -> None:
    sam = Sam(copy.deepcopy(made[0].model), "changed", made[0].quantization, made[0].records)
    grids = [quantizer.grid for quantizer in all_quantizers(sam.model).values()]
    grid = next(grid for grid in grids if isinstance(grid, Grouped))
    grid.groups = torch.full_like(grid.groups, grid.scales.numel())
    with pytest.raises(InvariantError):
        sam.save(tmp_path / "changed.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_graphs_refuse_these_grids_by_name(made: tuple[Sam, Path]) -> None:
    with pytest.raises(UsageError, match="grid, which graphs cannot hold yet"):
        Source(read_packed(made[1]))


def test_the_engine_native_leaves_them_to_pytorch_and_says_so(
    made: tuple[Sam, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "saqsam"):
        sam = api.load(made[1], engine="native")
    assert type(sam) is Sam
    assert "simulated by PyTorch instead" in caplog.text
