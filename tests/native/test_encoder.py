"""The encoder on the kernels: every code is the frozen PyTorch model's, given each block's input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saqsam.api import load
from saqsam.export.cases import generated_cases
from saqsam.families.framing import preprocess
from saqsam.families.registry import encoder_of
from saqsam.graphs.source import Source
from saqsam.native.encoder import NativeEncoder
from saqsam.native.kernels import Kernels
from saqsam.native.norm import Norm
from saqsam.pack.file import read_packed


@pytest.mark.parametrize("channels", [9, 64, 128, 300, 768, 1280])
def test_layer_norm_is_pytorchs_bit_for_bit(kernels: Kernels, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, channels, generator=generator) * 3 + 1
    weight, bias = torch.randn(2, channels, generator=generator)
    found = Norm(kernels, weight, bias, 1e-6, None).run(x)
    expected = torch.nn.functional.layer_norm(x, (channels,), weight, bias, 1e-6)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("recipe", ["rtn-w8a8", "rtn-w4a8", "ptq4sam-s-w4a4"])
def test_blocks_give_the_models_values(
    kernels: Kernels, packed_nano: Callable[[str], Path], recipe: str
) -> None:
    """What a block adds to its input are sums of codes: were one of them different, it would be seen."""
    path = packed_nano(recipe)
    model = load(path).model
    encoder, native = encoder_of(model), NativeEncoder(Source(read_packed(path)), kernels)
    pixel_values, _ = preprocess(model, generated_cases(1)[0].pixels)
    with torch.no_grad():
        x = encoder.start(pixel_values)
        assert torch.equal(native.start(pixel_values), x.flatten(0, 2))
        for block, own in zip(encoder.blocks, native.blocks, strict=True):
            tokens = x.flatten(0, 2).contiguous()
            x = encoder.run_block(block, x)
            own.run(tokens)
            different = (tokens != x.flatten(0, 2)).any(1)
            assert float(different.float().mean()) <= 0.02, own  # one code of 512 is enough to count
        neck = native.neck(x.flatten(0, 2).contiguous())
        torch.testing.assert_close(neck, encoder.neck(x), atol=1e-6, rtol=0)
