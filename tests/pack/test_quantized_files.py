"""A real quantized SAM in a file: sizes, equal answers, and no damage that goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from saqsam.errors import CheckpointError, CorruptCheckpoint
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pack.container import locate_sections, parse_header
from saqsam.pack.convert import from_packed, to_packed
from saqsam.pack.file import PackedModel, PackedWeight, read_packed, write_packed
from saqsam.pack.verify import verify_file
from saqsam.pipeline import Report
from saqsam.recipe import Recipe

Make = Callable[..., tuple[SamModel, Recipe, Report]]


@pytest.fixture
def written(quantized: Make, tmp_path: Path) -> Path:
    model, recipe, report = quantized("ptq4sam-s-w4a4")
    write_packed(tmp_path / "nano.sam", to_packed(model, recipe, report.to_dict()))
    return tmp_path / "nano.sam"


def answers(model: SamModel) -> list[torch.Tensor]:
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(8))
    boxes = torch.tensor([[[10.0, 10, 60, 70], [20, 30, 100, 110]]])
    with torch.no_grad():
        out = model(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
    return [out.pred_masks, out.iou_scores]


@pytest.mark.parametrize("recipe", ["ptq4sam-s-w4a4", "rtn-w8a8", "rtn-w3a6"])
def test_loading_gives_the_same_numbers_and_answers(quantized: Make, tmp_path: Path, recipe: str) -> None:
    model, made_by, report = quantized(recipe)
    write_packed(tmp_path / "nano.sam", to_packed(model, made_by, report.to_dict()))
    packed = read_packed(tmp_path / "nano.sam")
    loaded, read_recipe = from_packed(packed, tmp_path / "nano.sam")
    assert read_recipe == made_by
    assert packed.records["encoder_passes"] == report.encoder_passes
    one, other = all_quantizers(model), all_quantizers(loaded)
    assert list(one) == list(other)
    for site, quantizer in one.items():
        twin = other[site]
        assert quantizer.grid.to_packed() == twin.grid.to_packed()
        assert quantizer.stage is twin.stage
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))
    for before, after in zip(answers(model), answers(loaded), strict=True):
        assert torch.allclose(before, after, atol=1e-4)
    assert verify_file(tmp_path / "nano.sam").ok


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_weights_take_their_bits_and_the_rest_little(quantized: Make, tmp_path: Path, bits: int) -> None:
    """Codes are exactly ``bits`` wide; names, hashes, recipe and records cost at most 3 % of the file."""
    model, recipe, report = quantized(f"rtn-w{bits}a8")
    path = tmp_path / "nano.sam"
    packed = to_packed(model, recipe, report.to_dict())
    write_packed(path, packed)
    places = locate_sections(parse_header(path.read_bytes()), path.stat().st_size)
    size = {name: place.stop - place.start for name, place in places.items()}
    weights = [model.get_submodule(site.path).weight for site in all_quantizers(model) if site.role == WEIGHT]
    assert size["codes"] == sum((weight.numel() * bits + 7) // 8 for weight in weights)
    rest = sum(2 * tensor.numel() for tensor in packed.rest.values())
    grids = size["scales"] + size["zero_points"] + size["activation_scales"]
    described = path.stat().st_size - size["codes"] - rest - grids
    assert described <= 0.03 * path.stat().st_size


def test_a_thousand_flipped_bits_are_all_noticed(written: Path, tmp_path: Path) -> None:
    raw = written.read_bytes()
    draw = random.Random(20260)
    damaged = tmp_path / "damaged.sam"
    for _ in range(1000):
        place = draw.randrange(8 * len(raw))
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        damaged.write_bytes(changed)
        with pytest.raises(CorruptCheckpoint) as caught:
            read_packed(damaged)
        assert str(damaged) in str(caught.value)


def test_truncation_is_noticed_wherever_it_happens(written: Path, tmp_path: Path) -> None:
    raw = written.read_bytes()
    damaged = tmp_path / "damaged.sam"
    for percent in range(100):
        damaged.write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(CorruptCheckpoint):
            read_packed(damaged)
    for raw_end in (raw[:-1], raw + b"\0", raw + raw):
        damaged.write_bytes(raw_end)
        with pytest.raises(CorruptCheckpoint):
            read_packed(damaged)


def test_a_swap_of_two_tensors_of_equal_shape_is_noticed(written: Path, tmp_path: Path) -> None:
    """Also with a seal made anew: every tensor has a hash of its own."""
    raw = bytearray(written.read_bytes())
    codes = locate_sections(parse_header(bytes(raw)), len(raw))["codes"]
    packed = read_packed(written)
    names = sorted(packed.weights)
    places, start = {}, codes.start
    for name in names:
        weight = packed.weights[name]
        length = (weight.codes.numel() * weight.bits + 7) // 8
        places[name], start = slice(start, start + length), start + length
    first, second = next(
        (a, b)
        for a in names
        for b in names
        if a < b and packed.weights[a].codes.shape == packed.weights[b].codes.shape
    )
    raw[places[first]], raw[places[second]] = raw[places[second]], raw[places[first]]
    (tmp_path / "swapped.sam").write_bytes(resealed(raw))
    with pytest.raises(CorruptCheckpoint, match="SHA-256"):
        read_packed(tmp_path / "swapped.sam")


def resealed(raw: bytearray) -> bytes:
    """The same bytes under a seal that fits them, as somebody who edits files on purpose would make it."""
    return bytes(raw[:-32]) + hashlib.sha256(bytes(raw[:-32])).digest()


def test_edited_bits_are_noticed(written: Path, tmp_path: Path) -> None:
    raw = written.read_bytes()
    place = locate_sections(parse_header(raw), len(raw))["manifest"]
    manifest = json.loads(zlib.decompress(raw[place]))
    manifest["weights"][0][1] = 8
    edited = zlib.compress(json.dumps(manifest).encode(), 9)
    changed = bytearray(raw)
    changed[place] = edited[: place.stop - place.start].ljust(place.stop - place.start, b"\0")
    (tmp_path / "edited.sam").write_bytes(resealed(changed))
    with pytest.raises(CorruptCheckpoint):
        read_packed(tmp_path / "edited.sam")


def test_a_newer_format_is_refused_as_newer(written: Path, tmp_path: Path) -> None:
    raw = written.read_bytes().replace(b'"version":"1"', b'"version":"2"', 1)
    assert raw != written.read_bytes()
    (tmp_path / "newer.sam").write_bytes(resealed(bytearray(raw)))
    with pytest.raises(CheckpointError, match="reads version 1"):
        read_packed(tmp_path / "newer.sam")


def changed(packed: PackedModel, **parts: object) -> PackedModel:
    return PackedModel(
        **{**{name: getattr(packed, name) for name in PackedModel.__dataclass_fields__}, **parts}
    )


@pytest.mark.parametrize("fault", ["other bits", "a weight missing", "a site too many", "another shape"])
def test_parts_that_do_not_fit_each_other_are_named(written: Path, fault: str) -> None:
    """A file whose hashes all agree, but whose recipe and numbers are of different models."""
    packed = read_packed(written)
    name = "vision_encoder.layers.0.mlp.lin1"
    weight = packed.weights[name]
    weights, activations = dict(packed.weights), dict(packed.activations)
    if fault == "other bits":
        weights[name] = PackedWeight(weight.codes, weight.scale, weight.zero_point, 8)
    elif fault == "a weight missing":
        del weights[name]
    elif fault == "a site too many":
        activations["vision_encoder.layers.9.attn:key"] = activations["vision_encoder.layers.0.attn:key"]
    else:
        weights[name] = PackedWeight(weight.codes[:, :-1].contiguous(), weight.scale, weight.zero_point, 4)
    with pytest.raises(CorruptCheckpoint, match=r"vision_encoder\.layers\.[09]") as caught:
        from_packed(changed(packed, weights=weights, activations=activations), written)
    assert str(written) in str(caught.value)
