"""The mask decoder on the kernels: every code is the frozen PyTorch model's, given each layer's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saqsam.api import load
from saqsam.engines.load import native_model
from saqsam.export.cases import generated_cases
from saqsam.families.framing import preprocess
from saqsam.families.registry import decoder_of
from saqsam.graphs.source import Source
from saqsam.grids.affine import Affine
from saqsam.grids.log2 import Log2
from saqsam.native.attention import Levels, Operands
from saqsam.native.crossing import Crossing, Projection
from saqsam.native.decoder import NativeDecoder
from saqsam.native.encoder_model import NativeEncoderSam
from saqsam.native.image import Asked, ImageStep
from saqsam.native.kernels import Kernels
from saqsam.native.layer import Columns, Layer
from saqsam.native.library import levels_here
from saqsam.native.norm import DecoderNorm
from saqsam.native.supported import unsupported_decoder
from saqsam.pack.file import PackedWeight, read_packed
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, embed, low_res_side

built = pytest.mark.skipif(not levels_here(), reason="the kernels were not built here")
RECIPES = ("rtn-w8a8", "ptq4sam-s-w4a4")
SHAPES = [  # heads, width, tokens, image, bits
    (2, 32, 7, 256, 8),
    (8, 16, 7, 100, 4),
    (3, 5, 19, 97, 6),
    (9, 8, 1, 5, 8),
    (1, 40, 16, 200, 4),
]


def affine(bits: int, low: float, high: float) -> Affine:
    return Affine.spanning(torch.tensor(low), torch.tensor(high), bits)


def projection(
    kernels: Kernels, inner: int, columns: int, bits: int, out: Affine | None, generator: torch.Generator
) -> Projection:
    codes = torch.randint(0, 2**bits, (columns, inner), generator=generator).to(torch.uint8)
    points = torch.randint(0, 2**bits, (columns,), generator=generator).to(torch.uint8)
    weight = PackedWeight(codes, torch.rand(columns, generator=generator) * 2.0**-bits, points, bits)
    inputs = affine(bits, -2.0, 2.5)
    bias = torch.randn(columns, generator=generator)
    grids = None if out is None else [Columns(out, columns)]
    return Projection(Layer.of(kernels, weight, inputs, bias, grids), inputs)


def crossing_of(
    kernels: Kernels, grid: str, shape: tuple[int, int, int, int, int], generator: torch.Generator
) -> Crossing:
    heads, width, _, _, bits = shape
    channels = heads * width
    grids = Operands(affine(bits, -2.0, 2.5), affine(bits, -3.0, 2.0), affine(bits, -1.5, 1.0))
    maps = affine(bits, 0.0, 0.7) if grid == "affine" else Log2(bits, torch.tensor(0.9), 2)
    asked = [
        projection(kernels, channels, channels, bits, one, generator)
        for one in (grids.query, grids.key, grids.value)
    ]
    last = projection(kernels, channels, channels, bits, None, generator)
    levels = Levels.of(maps) if isinstance(maps, Log2) else None
    return Crossing(*asked, last, heads, grids, maps, levels)


def gathered(crossing: Crossing, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What the output layer gives of codes ``(P, N, channels)``, by the steps of the audited model."""
    grids, heads = crossing.grids, crossing.heads

    def split(codes: Tensor, zero: Tensor) -> Tensor:
        return (codes[..., : crossing.channels].float() - zero).unflatten(-1, (heads, -1)).transpose(1, 2)

    steps = [
        split(codes, grid.zero_point)
        for codes, grid in ((query, grids.query), (key, grids.key), (value, grids.value))
    ]
    maps = ((steps[0] @ steps[1].transpose(-2, -1)) * crossing.score_scale).softmax(-1)
    if isinstance(crossing.maps, Affine):
        found = (crossing.maps.codes(maps) - crossing.maps.zero_point) @ steps[2]
        found *= crossing.maps.scale * grids.value.scale
    else:
        found = crossing.maps.round_trip(maps) @ (steps[2] * grids.value.scale)
    return crossing.output.values(found.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("grid", ["affine", "log2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_between_image_and_tokens(
    kernels: Kernels, grid: str, shape: tuple[int, int, int, int, int]
) -> None:
    """Of two prompts, both directions: tokens ask the image, then the image asks the tokens."""
    heads, width, tokens, image, _ = shape
    channels, generator = heads * width, torch.Generator().manual_seed(tokens)
    crossing = crossing_of(kernels, grid, shape, generator)
    x = torch.randn(2 * image, channels, generator=generator)
    positions = torch.randn(image, channels, generator=generator)
    asked = [Asked(crossing.key, True), Asked(crossing.value, False), Asked(crossing.query, True)]
    side = ImageStep(kernels, positions, asked).seen(x)
    moved = (x.view(2, image, -1) + positions).flatten(0, 1)
    expected = [crossing.key.codes(moved), crossing.value.codes(x), crossing.query.codes(moved)]
    for codes, wanted in zip(side.codes, expected, strict=True):
        assert torch.equal(codes[:, :channels], wanted[:, :channels])
    own = torch.randn(2, tokens, channels, generator=generator)
    query, key, value = (
        one.codes(own.flatten(0, 1)) for one in (crossing.query, crossing.key, crossing.value)
    )

    found = crossing.tokens_ask(kernels, own, side.codes[0], side.codes[1], image)
    rows = [one.unflatten(0, (2, -1)) for one in (query, *side.codes[:2])]
    assert different(found, gathered(crossing, *rows)) <= (0 if grid == "affine" else 0.02)

    norm = DecoderNorm(*torch.randn(2, channels, generator=generator), 1e-5)
    rows = [one.unflatten(0, (2, -1)) for one in (side.codes[2], key, value)]
    wanted = norm(gathered(crossing, *rows) + x.view(2, image, -1)).flatten(0, 1)
    ImageStep(kernels, positions, asked, crossing, norm).run(side, key, value, tokens, side)
    assert different(side.tokens, wanted) <= (0 if grid == "affine" else 0.02)


def different(found: Tensor, wanted: Tensor) -> float:
    """Share of the rows in which a code was another one: sums of codes then differ by more than rounding."""
    return float(((found - wanted).abs() > 1e-5 * wanted.abs().max()).any(-1).float().mean())


@pytest.mark.parametrize("recipe", RECIPES)
def test_layers_give_the_models_values(
    kernels: Kernels, packed_nano: Callable[[str], Path], recipe: str
) -> None:
    path = packed_nano(recipe)
    model, native = load(path).model, NativeDecoder(Source(read_packed(path)), kernels)
    steps, case = decoder_of(model), generated_cases(1)[0]
    boxes = torch.tensor([[[20.0, 30, 70, 90], [5, 5, 40, 50], [60, 10, 120, 100]]])
    with torch.no_grad():
        embedding = embed(model, preprocess(model, case.pixels)[0])
        sparse, dense = steps.embed_prompts(input_boxes=boxes)
        tokens = torch.cat([steps.output_tokens().expand(3, -1, -1), sparse[0]], dim=1)
        own = native.prompts.tokens(boxes[0].unflatten(1, (2, 2)), torch.tensor([2.0, 3.0]).expand(3, 2))
        assert torch.equal(own, tokens)
        positions = steps.positions()
        assert torch.equal(native.prompts.of_image(16), positions.flatten(2)[0].T)
        image = (embedding.main + dense).flatten(2).transpose(1, 2)
        assert torch.equal(native.image_side(embedding.main, native.prompts.dense(None)).tokens, image[0])
        keys, queries = image[None].expand(3, -1, -1, -1), tokens[:, None]
        places = positions.flatten(2).transpose(1, 2)[:, None]
        for index, layer in enumerate(steps.layers):
            side = native.steps[index].seen(keys.flatten(0, 2).contiguous())
            started = native.among_tokens(index, queries[:, 0], tokens)
            found, side = native.with_image(index, started, tokens, side)
            queries, keys = steps.layer(layer, queries, keys, tokens[:, None], places)
            assert different(found, queries[:, 0]) <= 0.05
            assert different(side.tokens, keys.flatten(0, 2)) <= 0.01


@built
@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_of_every_kind_of_prompt(packed_nano: Callable[[str], Path], recipe: str) -> None:
    path = packed_nano(recipe)
    model, native = load(path).model, load(path, engine="native").model
    case = generated_cases(1)[0]
    pixel_values, frame = preprocess(model, case.pixels)
    embedding, side = embed(model, pixel_values), low_res_side(model)
    fields = {
        "boxes": torch.tensor([[20.0, 30, 70, 90], [5, 5, 40, 50], [30, 10, 80, 60]]),
        "points": torch.tensor([[[40.0, 50], [60, 60]], [[20, 20], [9, 9]], [[50, 30], [33, 44]]]),
        "masks": torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0)) * 4,
    }
    for kind in (*fields, "all"):
        chosen = {name: x for name, x in fields.items() if kind in (name, "all")}
        if "points" in chosen:
            chosen["labels"] = torch.tensor([[1, 0]]).expand(3, -1)
        prompts, several = Prompts(**chosen), kind == "all"
        expected = decode(model, embedding, prompts, frame, multimask_output=several)
        found = decode(native, embedding, prompts, frame, multimask_output=several)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert float(((one - other).abs() > 1e-2 * other.abs().max()).float().mean()) <= 0.02, kind


@built
def test_any_number_of_threads_gives_the_same(packed_nano: Callable[[str], Path]) -> None:
    native = load(packed_nano("rtn-w8a8"), engine="native").model
    embedding = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    coords = torch.rand(9, 2, 2, generator=torch.Generator().manual_seed(1)) * 128
    labels = torch.tensor([2.0, 3.0]).expand(9, 2)
    threads = torch.get_num_threads()
    alone = native.decode(embedding, coords, labels)
    try:
        torch.set_num_threads(3)
        found = native.decode(embedding, coords, labels)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


@built
def test_a_decoder_that_it_does_not_compute_runs_in_onnx_runtime(packed_nano: Callable[[str], Path]) -> None:
    path = packed_nano("rtn-w8a8")
    packed = read_packed(path)
    assert unsupported_decoder(Source(packed)) == ""
    site = "mask_decoder.transformer.layers.1.mlp.lin2:input"
    fewer = replace(packed, activations={name: x for name, x in packed.activations.items() if name != site})
    assert unsupported_decoder(Source(fewer)) == f"{site} is float"
    assert isinstance(native_model(fewer, load(path).model.config, "x"), NativeEncoderSam)
