"""Leaving out the padding of windows changes no embedding: compared with transformers' own encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamModel

from saqsam import api
from saqsam.families.sam_encoder import SamEncoder
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.recipe import load_recipe
from saqsam.segment.predictor import embed


def pixels_for(model: SamModel, batch: int = 1) -> Tensor:
    side = model.config.vision_config.image_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("batch", [1, 3])
def test_float_embeddings_are_those_of_transformers(tiny_sam: SamModel, attention: str, batch: int) -> None:
    """In double precision, where what is left of rounding is small."""
    model = tiny_sam.double()
    model.set_attn_implementation(attention)
    pixels = pixels_for(model, batch).double()
    assert SamEncoder(model).can_skip_padding()
    with torch.no_grad():
        expected = model.vision_encoder(pixels).last_hidden_state
        found = SamEncoder(model).encode(pixels).main
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_projection_without_bias_pads_with_zeros(tiny_sam: SamModel) -> None:
    model = tiny_sam.double()
    for layer in model.vision_encoder.layers:
        layer.attn.qkv.bias = None
    pixels = pixels_for(model).double()
    with torch.no_grad():
        expected = model.vision_encoder(pixels).last_hidden_state
        torch.testing.assert_close(SamEncoder(model).encode(pixels).main, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("recipe", ["rtn-w8a8", "ptq4sam-s-w4a4"])
def test_a_quantized_model_gives_the_very_same_embedding(
    packed_nano: Callable[[str], Path], recipe: str
) -> None:
    model = api.load(packed_nano(recipe)).model
    pixels = pixels_for(model)
    with torch.no_grad():
        expected = model.vision_encoder(pixels).last_hidden_state
    assert SamEncoder(model).can_skip_padding()
    assert torch.equal(embed(model, pixels).main, expected)


def tokens_projected(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> int:
    """Tokens that float linear layers of the encoder worked on."""
    tokens = 0
    plain = functional.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        nonlocal tokens
        tokens += x.numel() // x.shape[-1]
        return plain(x, weight, bias)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(functional, "linear", counted)
        run()
    return tokens


def test_padding_is_not_projected(monkeypatch: pytest.MonkeyPatch, tiny_sam: SamModel) -> None:
    """8 x 8 tokens in windows of 3 are padded to 9 x 9: four linear layers in each of four blocks."""
    pixels = pixels_for(tiny_sam)
    assert tokens_projected(monkeypatch, lambda: embed(tiny_sam, pixels)) == 4 * 4 * 64
    padded_too = tokens_projected(monkeypatch, lambda: tiny_sam.vision_encoder(pixels))
    assert padded_too == 4 * 4 * 64 + 2 * 2 * (81 - 64)


def test_hooks_see_the_padding(tiny_sam: SamModel) -> None:
    seen: list[tuple[int, ...]] = []

    def see(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        seen.append(tuple(given[0].shape))

    tiny_sam.vision_encoder.layers[0].attn.qkv.register_forward_hook(see)
    assert not SamEncoder(tiny_sam).can_skip_padding()
    embed(tiny_sam, pixels_for(tiny_sam))
    assert seen == [(9, 3, 3, 48)]


def test_observers_see_the_padding(nano: SamModel) -> None:
    class Counter:
        values = 0

        def update(self, x: Tensor, value: Tensor | None) -> None:
            del value
            self.values += x.numel()

    attach(nano, plan_sites(nano, load_recipe("rtn-w8a8")))
    assert SamEncoder(nano).can_skip_padding()
    quantizer = nano.vision_encoder.layers[0].attn.qkv.input_quantizer
    quantizer.observer = counter = Counter()
    assert not SamEncoder(nano).can_skip_padding()
    embed(nano, pixels_for(nano))
    assert counter.values == 18 * 18 * 128  # 16 x 16 tokens in windows of 6
