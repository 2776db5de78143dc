"""Mixed precision: budgets are kept exactly, bits go where masks suffer, and the file says which."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamModel

from saqsam import api
from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.families.embedding import Embedding
from saqsam.mixed import way_back
from saqsam.mixed.allocate import allocate
from saqsam.mixed.choose import allocate_bits
from saqsam.mixed.sensitivity import sensitivities
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import ATTENTION, INPUT, VALUE, WEIGHT
from saqsam.pipeline import calibrated_copy
from saqsam.recipe import Override, load_recipe
from saqsam.reconstruct.end_to_end import masks_and_scores
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.prompting import Prompting
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

MIXED = ("mixed.enabled=true", "mixed.images=1", "clip.images=1", "clip.prompts=2", "clip.sweeps=1")
curves = st.dictionaries(
    st.sampled_from("abcd"),
    st.dictionaries(st.integers(2, 8), st.floats(0, 100), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(curves=curves, sizes=st.lists(st.integers(1, 9), min_size=4, max_size=4), spare=st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_spending(curves: dict[str, dict[int, float]], sizes: list[int], spare: int) -> None:
    size = dict(zip("abcd", sizes, strict=True))
    least = sum(min(curve) * size[site] for site, curve in curves.items())
    chosen = allocate(curves, size, least + spare)
    cost = sum(bits * size[site] for site, bits in chosen.items())
    assert cost <= least + spare
    error = sum(curves[site][bits] for site, bits in chosen.items())
    # Against every combination: never better than the best, and at most one upgrade worse.
    best = min(
        sum(curves[site][bits] for site, bits in zip(curves, combination, strict=True))
        for combination in itertools.product(*curves.values())
        if sum(bits * size[site] for site, bits in zip(curves, combination, strict=True)) <= least + spare
    )
    largest = max(max(curve.values()) - min(curve.values()) for curve in curves.values())
    assert best - 1e-9 <= error <= best + largest + 1e-9


def test_the_upgrade_that_buys_most_comes_first() -> None:
    found = allocate(
        {"cheap": {3: 9.0, 5: 1.0}, "dear": {3: 10.0, 5: 1.0}, "flat": {3: 1.0, 5: 1.0}},
        {"cheap": 1, "dear": 10, "flat": 1},
        3 * 12 + 2,
    )
    assert found == {"cheap": 5, "dear": 3, "flat": 3}


def test_slopes_agree_with_quantizing_one_site_for_real(
    tiny_sam: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    """At 7 bits errors are small, so that first order is enough: measured against one run for each site."""
    recipe = load_recipe("saq-sam-star-w7a7", settings=("clip.method=none",))
    image = scenes[0]
    model = calibrated_copy(tiny_sam, recipe, [image])
    probes = 80
    errors, _ = sensitivities(
        model, [all_quantizers(model)], [image], probes, torch.Generator().manual_seed(0)
    )
    pixels, frame = pixels_of(model, image)
    prompting = Prompting.of(model, [(image.prompts, frame)], 8, torch.Generator().manual_seed(0))
    quantizers = all_quantizers(model)

    def run(only: object) -> torch.Tensor:
        with torch.no_grad(), overridden(unquantized(q for q in quantizers.values() if q is not only)):
            embedding = model.vision_encoder(pixels).last_hidden_state
            return masks_and_scores(model, prompting, Embedding(embedding), [0]).double()

    wanted = run(None)
    roles = (WEIGHT, INPUT, VALUE)  # an untrained query moves the masks by less than float32 resolves
    checked = [next(site for site in quantizers if site.role == role) for role in roles]
    checked.append([site for site in quantizers if site.role == WEIGHT][-1])
    for site in checked:
        real = float((run(quantizers[site]) - wanted).square().sum())
        assert errors[site][0] / probes == pytest.approx(real, rel=0.35), site.name


def test_large_maps_are_worked_through_in_subsets_of_rows_with_the_same_slopes(
    tiny_sam: SamModel, scenes: tuple[CalibrationImage, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("saq-sam-star-w8a8", settings=("clip.method=none",))
    model = calibrated_copy(tiny_sam, recipe, [scenes[0]])
    whole, sizes = sensitivities(
        model, [all_quantizers(model)], scenes[:1], 2, torch.Generator().manual_seed(0)
    )
    monkeypatch.setattr(way_back, "_LARGE_MAP", 0)  # maps of 4,096 keys take gigabytes
    parts, same = sensitivities(
        model, [all_quantizers(model)], scenes[:1], 2, torch.Generator().manual_seed(0)
    )
    assert sizes == same
    largest = max(error[0] for error in whole.values())
    for site, error in whole.items():
        assert parts[site][0] == pytest.approx(error[0], rel=1e-2, abs=1e-6 * largest), site.name


def test_sizes_are_elements_and_multiplications(
    tiny_sam: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    model = calibrated_copy(tiny_sam, load_recipe("rtn-w4a4"), list(scenes[:1]))
    _, sizes = sensitivities(model, [all_quantizers(model)], scenes[:1], 1, torch.Generator().manual_seed(0))
    weights = {site.name: size for site, size in sizes.weights.items()}
    activations = {site.name: size for site, size in sizes.activations.items()}
    assert weights["vision_encoder.layers.0.mlp.lin1:weight"] == 48 * 96
    # 8 x 8 tokens of 48 channels, 3 heads of 16; the second block is global.
    assert activations["vision_encoder.layers.1.mlp.lin1:input"] == 64 * 48 * 96
    assert activations["vision_encoder.layers.1.attn:attention"] == 3 * 64 * 64 * 16
    assert activations["vision_encoder.layers.1.attn:query"] == 3 * 64 * 64 * 16
    assert activations["vision_encoder.neck.conv2:input"] == 64 * 32 * 32 * 9
    assert len(weights) + len(activations) == len(all_quantizers(model))


def test_budgets_hold_and_the_choice_is_repeatable(
    tiny_sam: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    bits = "w3a6"
    recipe = load_recipe("rtn", bits=bits, settings=MIXED[:2])
    few = scenes[:1]
    found = allocate_bits(tiny_sam, recipe, few)
    assert found == allocate_bits(tiny_sam, recipe, few)
    assert allocate_bits(tiny_sam, found, few) == found
    assert found.bits == f"{bits} mixed"
    model = calibrated_copy(tiny_sam, found, list(few))
    _, sizes = sensitivities(model, [all_quantizers(model)], few, 1, torch.Generator().manual_seed(0))
    for part, wanted in ((sizes.weights, int(bits[1])), (sizes.activations, int(bits[3]))):
        used = {site: quantizer.bits for site, quantizer in all_quantizers(model).items() if site in part}
        average = Fraction(sum(part[s] * b for s, b in used.items()), sum(part[s] for s in used))
        assert wanted - Fraction(1, 10) < average <= wanted
        assert len(set(used.values())) > 2
        assert set(used.values()) <= {wanted - 1, wanted, wanted + 1, min(8, wanted + 3)}


def test_the_packed_file_holds_the_choice_and_what_the_recipe_fixes(
    tiny_sam: SamModel, tmp_path: Path
) -> None:
    write_scenes(tmp_path, 1, seed=4, size=(64, 64))
    fixed = {"mask_decoder.*:attention": "bits=6", "vision_encoder.neck.*": "keep_float=true"}
    settings = [f"overrides.{pattern}.{value}" for pattern, value in fixed.items()]
    recipe = load_recipe("saq-sam-star-w4a4", settings=(*MIXED, *settings))
    packed = api.quantize(Sam(tiny_sam, "tiny"), recipe, tmp_path / "images", tmp_path / "instances.json")
    packed.save(tmp_path / "mixed.safetensors")
    again = api.load(tmp_path / "mixed.safetensors")
    assert again.quantization is not None
    assert again.bits == "w4a4 mixed"
    overrides = again.quantization.overrides
    assert all(isinstance(each, Override) for each in overrides.values())
    quantizers = all_quantizers(again.model)
    for site, quantizer in quantizers.items():
        if site.name in overrides:
            assert overrides[site.name].bits == quantizer.bits
    assert len({overrides[s.name].bits for s in quantizers if s.name in overrides}) > 2
    assert {q.bits for s, q in quantizers.items() if s.part == "decoder" and s.role == ATTENTION} == {6}
    assert not any(site.path.startswith("vision_encoder.neck") for site in quantizers)
