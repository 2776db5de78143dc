"""``engine="int8"``: the numbers of the simulation, bit for bit, from int8 weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saqsam.api import evaluate, load
from saqsam.engines.int8 import Int8Linear, can_convert, float_product
from saqsam.errors import UsageError
from saqsam.modules.layers import QuantLinear
from saqsam.modules.quantizer import Quantizer
from saqsam.scenes import write_scenes
from saqsam.segment.predictor import embed


def frozen_layer(inside: int, outside: int, bits: tuple[int, int], shift: float, seed: int) -> QuantLinear:
    """Random weights around ``shift``, so that zero points lie anywhere."""
    torch.manual_seed(seed)
    layer = nn.Linear(inside, outside)
    layer.weight.data.add_(shift)
    inputs, weights = Quantizer("x", bits[0]), Quantizer("w", bits[1], channels=outside)
    inputs.cover(torch.tensor(-1.0 + shift), torch.tensor(2.0))
    flat = layer.weight.detach()
    weights.cover(flat.amin(1), flat.amax(1))
    quantized = QuantLinear(layer, inputs, weights)
    inputs.freeze()
    quantized.freeze_weight()
    return quantized.requires_grad_(False)


@given(
    st.sampled_from([8, 64, 776]),
    st.sampled_from([(8, 8), (4, 4), (8, 4), (3, 8)]),
    st.sampled_from([-3.0, 0.0, 0.4]),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_a_layer_gives_the_simulations_numbers(
    inside: int, bits: tuple[int, int], shift: float, seed: int
) -> None:
    layer = frozen_layer(inside, 16, bits, shift, seed)
    x = torch.randn(2, 5, inside) * 2
    assert can_convert(layer)
    converted = Int8Linear(layer)
    assert converted.weight.dtype == torch.int8
    assert torch.equal(converted(x), layer(x))


def test_layers_it_cannot_take_are_left_alone() -> None:
    odd = frozen_layer(12, 16, (8, 8), 0.0, 0)
    assert not can_convert(odd)
    assert not can_convert(QuantLinear(nn.Linear(16, 16), None, None))


def test_a_model_gives_the_simulations_masks_from_less_memory(
    packed_nano: Callable[[str], Path], tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "scenes", 2, 12).parent
    images, annotations = scenes / "images", scenes / "instances.json"
    path = packed_nano("rtn-w8a8")
    simulated, integers = load(path), load(path, engine="int8")
    pixels = torch.randn(1, 3, *2 * [simulated.model.config.vision_config.image_size])
    assert torch.equal(embed(simulated.model, pixels).main, embed(integers.model, pixels).main)
    expected, found = (evaluate(sam, images, annotations, "boxes") for sam in (simulated, integers))
    assert (expected.AP, expected.mIoU) == (found.AP, found.mIoU)

    def held(model: nn.Module) -> int:
        return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))

    assert held(integers.model) < 0.5 * held(simulated.model)
    integers.save(tmp_path / "again.saqsam")
    assert (tmp_path / "again.saqsam").read_bytes() == path.read_bytes()


def test_it_wants_a_packed_file() -> None:
    with pytest.raises(UsageError, match="engine 'int8' runs packed files"):
        load("nano", engine="int8")


@given(st.sampled_from([8, 1024, 3080]), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_float_product_of_whole_numbers_is_exact(inside: int, seed: int) -> None:
    """As on processors whose int8 product saturates; half of the numbers are the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.randint(-400, 400, size, generator=generator).clamp(-128, 127).to(torch.int8)
        for size in ((5, inside), (inside, 8))
    )
    expected = (left.long() @ right.long()).to(torch.int32)
    assert torch.equal(float_product(left, right), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(float_product(left, right), expected)
