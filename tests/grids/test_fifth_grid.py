"""A grid that is defined here, registered, and used by everything: nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from tests.conftest import make_tiny_sam
from torch import Tensor

from saqsam import api
from saqsam.calibrate.histogram import HistogramObserver
from saqsam.calibrate.rules import SiteRange, register_rule
from saqsam.errors import CheckpointError, RecipeError, UsageError
from saqsam.graphs.source import Source
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid, scale_problem
from saqsam.grids.packed import PackedActivation
from saqsam.grids.registry import find_grid, grid_names, register_grid, unregister_grid
from saqsam.models.attach import all_quantizers
from saqsam.models.plan import plan_sites
from saqsam.modules.quantizer import Observer, Quantizer
from saqsam.pack.file import read_packed
from saqsam.pack.verify import verify_file
from saqsam.recipe import Ranges, load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

FEW = ("calibration.images=2", "calibration.prompts=2")


class PowerOfTwo(Affine):
    """An affine grid whose scale is a power of two; everything else is inherited, the range rule too."""

    name = "pow2"

    @classmethod
    def spanning(cls, low: Tensor, high: Tensor, bits: int) -> Self:
        wide = Affine.spanning(low, high, bits)
        scale = torch.exp2(wide.scale.log2().ceil())
        return cls(bits, scale, (wide.zero_point * wide.scale / scale).round())


class Squares(Grid):
    """``scale * k * |k|`` for whole ``k`` from ``-2**(bits - 1)``: finest around zero."""

    name = "squares"
    scale: Tensor

    def __init__(self, bits: int, scale: Tensor) -> None:
        super().__init__(bits)
        self.keep(scale=scale)

    def levels(self) -> Tensor:
        k = torch.arange(2**self.bits, dtype=torch.float32) - 2 ** (self.bits - 1)
        return self.scale * (k * k.abs())

    def codes(self, x: Tensor) -> Tensor:
        levels = self.levels()
        return torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)

    def values(self, codes: Tensor) -> Tensor:
        return self.levels()[codes]

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        present = self if numbers is None else self.with_numbers(numbers)
        moved = present.round_trip(x.detach())
        scale = self.scale if numbers is None else numbers
        found = moved / present.scale * scale + (x - x.detach())
        return found if mask is None else torch.where(mask, found, x)

    def numbers(self) -> Tensor:
        return self.scale

    def with_numbers(self, numbers: Tensor) -> Self:
        return type(self)(self.bits, numbers)

    def check(self, channels: int | None = None) -> str:
        return scale_problem(self.scale, ())

    def bounds(self) -> tuple[float, float]:
        levels = self.levels()
        return float(levels[0]), float(levels[-1])

    def to_packed(self) -> PackedActivation:
        return PackedActivation(self.name, self.bits, float(self.scale), 2 ** (self.bits - 1), 0)

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        return cls(packed.bits, torch.tensor(packed.scale))

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        lawful = packed.zero_point == 1 << (packed.bits - 1) and packed.detail == 0
        return "" if lawful else packed.unlawful


class SquaresRule:
    """The largest magnitude seen becomes the largest value."""

    def observer(self, quantizer: Quantizer, ranges: Ranges) -> Observer:
        return HistogramObserver(quantizer.site)

    def choose(self, quantizer: Quantizer, ranges: Ranges, groups: int) -> SiteRange | None:
        observer = quantizer.observer
        if not isinstance(observer, HistogramObserver) or not observer.histogram.total:
            return None
        seen, half = observer.histogram, 2 ** (quantizer.bits - 1)
        largest = max(-seen.low, seen.high, 1e-6)
        quantizer.set(Squares(quantizer.bits, torch.tensor(largest / half**2)))
        return SiteRange(seen.low, seen.high, seen.total)


@pytest.fixture(params=[PowerOfTwo, Squares])
def fifth(request: pytest.FixtureRequest) -> Iterator[type[Grid]]:
    """A grid that the package does not have, registered while a test lasts."""
    kind: type[Grid] = request.param
    register_grid(kind)
    register_rule(Squares, SquaresRule())
    yield kind
    unregister_grid(kind)


def quantized(kind: type[Grid], place: Path, recipe: str, *settings: str) -> Sam:
    """A tiny SAM with all its queries and the inputs of each first MLP layer on the grid."""
    truth = write_scenes(place, 2, seed=3, size=(64, 64))
    own = (f"overrides.*:query.grid={kind.name}", f"overrides.*.lin1:input.grid={kind.name}")
    chosen = load_recipe(recipe, settings=(*FEW, *own, *settings))
    return api.quantize(Sam(make_tiny_sam(), "tiny"), chosen, place / "images", truth)


def on_it(sam: Sam, kind: type[Grid]) -> list[dict[str, Any]]:
    return [row for row in sam.inspect()["sites"] if row["grid"] == kind.name]


def test_it_is_quantized_packed_loaded_audited_and_inspected(fifth: type[Grid], tmp_path: Path) -> None:
    sam, file = quantized(fifth, tmp_path, "mse-w4a4"), tmp_path / "tiny.safetensors"
    sam.save(file)
    assert verify_file(file).ok
    loaded = api.load(file)
    rows = on_it(loaded, fifth)
    assert rows == on_it(sam, fifth)
    assert {row["role"] for row in rows} == {"query", "input"}
    assert all(row["min"] <= 0 < row["max"] and row["scale"] > 0 for row in rows)
    for site, quantizer in all_quantizers(loaded.model).items():
        assert isinstance(quantizer.grid, fifth) == (
            site.role == "query" or site.name.endswith("lin1:input")
        ), site.name
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (m.vision_encoder(pixels).last_hidden_state for m in (sam.model, loaded.model))
    assert torch.equal(one, two)


def test_it_is_learned_and_resumed(fifth: type[Grid], tmp_path: Path) -> None:
    few = ("reconstruct.iterations=3", "reconstruct.scale_rate=0.01")
    ranges = ("weight_ranges.method=minmax", "activation_ranges.method=minmax")
    plain = quantized(fifth, tmp_path, "rtn-w4a4")
    learned = quantized(fifth, tmp_path, "qdrop-w4a4", *ranges, *few)
    both = zip(on_it(plain, fifth), on_it(learned, fifth), strict=True)
    assert any(one["scale"] != other["scale"] for one, other in both)


def test_graphs_hold_it_if_it_says_how(fifth: type[Grid], tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    quantized(fifth, tmp_path, "rtn-w4a4").save(file)
    if fifth is PowerOfTwo:
        assert Source(read_packed(file)).affine("vision_encoder.layers.0.attn:query") is not None
    else:
        with pytest.raises(UsageError, match="on a squares grid, which graphs cannot hold yet"):
            Source(read_packed(file))


def test_who_does_not_know_it_is_told_so(fifth: type[Grid], tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    quantized(fifth, tmp_path, "rtn-w4a4").save(file)
    unregister_grid(fifth)
    assert fifth.name not in grid_names()
    with pytest.raises(CheckpointError, match=fifth.name):
        api.load(file)
    with pytest.raises(RecipeError, match="is not one of affine, log2, grouped, hybrid"):
        load_recipe("rtn-w4a4", settings=(f"overrides.*:query.grid={fifth.name}",))


def test_it_is_not_for_weights(fifth: type[Grid]) -> None:
    recipe = load_recipe("rtn-w4a4", settings=(f"overrides.*.lin1:weight.grid={fifth.name}",))
    with pytest.raises(RecipeError, match=f"cannot use the {fifth.name} grid, which is not for weights"):
        plan_sites(make_tiny_sam(), recipe)


def test_a_name_is_given_once(fifth: type[Grid]) -> None:
    class Other(PowerOfTwo):
        name = fifth.name

    with pytest.raises(ValueError, match="give this one another name"):
        register_grid(Other)
    assert find_grid(fifth.name) is fifth
