"""Folds leave the float function alone, do what they are for, and do nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibrate.histogram import Histogram
from saqsam.calibrate.images import CalibrationImage, Encoded, decode_each, pixels_of
from saqsam.errors import InvariantError, NumericalError
from saqsam.families.embedding import Embedding
from saqsam.folds.apply import fold_decoder, fold_encoder
from saqsam.folds.bimodal import is_bimodal, key_signs
from saqsam.folds.equalise import balance
from saqsam.folds.projections import KEY, QUERY, VALUE, Projections, collecting
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import decoder_attention_paths, encoder_attention_paths
from saqsam.recipe import Folds, load_recipe
from saqsam.segment.predictor import embed
from saqsam.shipped.outliers import bimodal_keys, constant_key_bias

SWITCHES = [field.name for field in fields(Folds)]
TOLERANCE = 1e-3
"""Largest change, in units of the largest output (method.md section 9.7)."""
ROTATIONS = ("value_rotation", "query_key_rotation", "encoder_query_key_rotation", "residual_rotation")
SCALE = 8


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def attached(model: SamModel) -> SamModel:
    attach(model, plan_sites(model, load_recipe("rtn-w4a4")))
    return model


def prompts_of_all_kinds(model: SamModel) -> list[dict[str, Tensor]]:
    """Boxes, clicks, both, and a mask with a box; two prompts each, in input pixels."""
    side = float(model.config.vision_config.image_size)
    low_res = 4 * model.config.prompt_encoder_config.image_embedding_size
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.7], [0.3, 0.3, 0.9, 0.8]]]) * side
    points = torch.tensor([[[[0.3, 0.4], [0.8, 0.1]], [[0.5, 0.6], [0.2, 0.9]]]]) * side
    labels = torch.tensor([[[1, 0], [1, 1]]])
    clicks = {"input_points": points, "input_labels": labels}
    mask = torch.randn(1, 1, low_res, low_res, generator=torch.Generator().manual_seed(1)) * 5
    return [
        {"input_boxes": boxes},
        clicks,
        {"input_boxes": boxes, **clicks},
        {"input_boxes": boxes[:, :1], "input_masks": mask},
    ]


def outputs(model: SamModel, embedding: Embedding) -> list[Tensor]:
    """Three masks and their predicted IoU for every kind of prompt."""
    found = []
    with torch.no_grad():
        for prompts in prompts_of_all_kinds(model):
            out = model(image_embeddings=embedding.main, multimask_output=True, **prompts)
            found += [out.pred_masks, out.iou_scores]
    return found


def largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before, strict=True))


def encoded(model: SamModel, scenes: tuple[CalibrationImage, ...]) -> list[Encoded]:
    """Two scenes, scaled to the model's input."""
    found = []
    for scene in scenes[:2]:
        pixels, frame = pixels_of(model, scene)
        found.append(Encoded(scene.path.name, embed(model, pixels), scene.prompts, frame))
    return found


def parts(model: SamModel) -> dict[str, tuple[Tensor, ...]]:
    """Query, key, value and output weights with their biases, of every attention of the model."""
    found = {}
    for path in (*encoder_attention_paths(model), *decoder_attention_paths(model)):
        projections = Projections(model.get_submodule(path))
        rows = [tensor.clone() for kind in (QUERY, KEY, VALUE) for tensor in projections.rows(kind)]
        found[path] = (*rows, projections.output_weight().clone())
    return found


def changed(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> set[str]:
    names = ("q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias", "out.weight")
    return {name for name, a, b in zip(names, before, after, strict=True) if not torch.equal(a, b)}


@pytest.fixture(params=["tiny_sam", "nano", "nano with two humps"])
def model(request: pytest.FixtureRequest, tiny_sam: SamModel, nano: SamModel) -> SamModel:
    """Untrained and trained models, and one whose keys make BIG act."""
    made = {"tiny_sam": tiny_sam, "nano": nano, "nano with two humps": nano}[request.param]
    return attached(bimodal_keys(made) if request.param == "nano with two humps" else made)


EXPECTED = {
    "bimodal_sign_flip": {"q.weight", "q.bias", "k.weight", "k.bias"},
    "key_centring": {"k.bias"},
    "query_key_equalisation": {"q.weight", "q.bias", "k.weight", "k.bias"},
    "value_output_scaling": {"v.weight", "v.bias", "out.weight"},
    "value_rotation": {"v.weight", "v.bias", "out.weight"},
    "query_key_rotation": {"q.weight", "q.bias", "k.weight", "k.bias"},
    "encoder_query_key_rotation": {"q.weight", "q.bias", "k.weight", "k.bias"},
    "residual_rotation": {"q.weight", "k.weight", "v.weight", "out.weight"},
}
ENCODER_FOLDS = ("key_centring", "value_output_scaling", "value_rotation", *ROTATIONS[2:])
DECODER_FOLDS = tuple(switch for switch in SWITCHES if switch not in ROTATIONS[2:])


@pytest.mark.parametrize("switch", SWITCHES)
def test_one_switch_in_the_decoder(
    switch: str, model: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    images = encoded(model, scenes)
    before, weights = outputs(model, images[0].embedding), parts(model)
    record = fold_decoder(model, Folds(**{switch: True}), lambda: decode_each(model, images), draw())
    assert largest_change(before, outputs(model, images[0].embedding)) < TOLERANCE
    after = parts(model)
    decoder = decoder_attention_paths(model)
    for path in encoder_attention_paths(model):
        assert changed(weights[path], after[path]) == set()
    touched = {path for path in decoder if changed(weights[path], after[path])}
    assert touched == set(record)
    for path in touched:
        assert changed(weights[path], after[path]) <= EXPECTED[switch]
    if switch != "bimodal_sign_flip":
        assert touched == (set(decoder) if switch in DECODER_FOLDS else set())


@pytest.mark.parametrize("switch", SWITCHES)
def test_one_switch_in_the_encoder(
    switch: str, model: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    pixels = torch.cat([pixels_of(model, scene)[0] for scene in scenes[:2]])
    before, weights = embed(model, pixels).main, parts(model)
    record = fold_encoder(model, Folds(**{switch: True}), lambda: embed(model, pixels), draw())
    assert largest_change([before], [embed(model, pixels).main]) < TOLERANCE
    after = parts(model)
    for path in decoder_attention_paths(model):
        assert changed(weights[path], after[path]) == set()
    for path in encoder_attention_paths(model):
        wanted = EXPECTED[switch] if switch in ENCODER_FOLDS else set()
        assert changed(weights[path], after[path]) == wanted
        assert (path in record) == (bool(wanted) and switch != "residual_rotation")
    assert ("vision_encoder" in record) == (switch == "residual_rotation")


def test_all_folds_together(model: SamModel, scenes: tuple[CalibrationImage, ...]) -> None:
    everything = Folds(**dict.fromkeys(SWITCHES, True))
    pixels = torch.cat([pixels_of(model, scene)[0] for scene in scenes[:2]])
    images, original = encoded(model, scenes), embed(model, pixels).main
    before = outputs(model, images[0].embedding)
    fold_encoder(model, everything, lambda: embed(model, pixels), draw())
    fold_decoder(model, everything, lambda: decode_each(model, images), draw())
    assert largest_change([original], [embed(model, pixels).main]) < TOLERANCE
    assert largest_change(before, outputs(model, images[0].embedding)) < TOLERANCE


def statistics(model: SamModel, images: list[Encoded]) -> dict[str, Projections]:
    found = {path: Projections(model.get_submodule(path)) for path in decoder_attention_paths(model)}
    with collecting(found):
        decode_each(model, images)
    return found


def fold(model: SamModel, images: list[Encoded], *switches: str) -> dict[str, dict[str, float]]:
    switched = Folds(**dict.fromkeys(switches, True))
    return fold_decoder(model, switched, lambda: decode_each(model, images), draw())


def test_centred_keys_have_no_mean_and_equalised_channels_equal_ranges(
    nano: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    model = attached(nano)
    images = encoded(model, scenes)
    fold(model, images, "key_centring")
    for found in statistics(model, images).values():
        key = found.statistics[KEY]
        assert float(key.mean.abs().max()) < 1e-4 * max(1.0, float(key.span.max()))
    fold(model, images, "query_key_equalisation")
    for found in statistics(model, images).values():
        query, key = found.statistics[QUERY].span, found.statistics[KEY].span
        alive = (query > 1e-2 * query.max()) & (key > 1e-2 * key.max())
        assert bool(alive.any())
        assert torch.allclose(query[alive], key[alive], rtol=1e-3)


def test_key_centring_repairs_a_constant_key_bias(
    nano: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    """The fixture's outliers are constants: after centring, its keys are those of the clean model."""
    clean, biased = attached(copy.deepcopy(nano)), attached(constant_key_bias(nano))
    images = encoded(clean, scenes)
    spans = [found.statistics[KEY].high.abs().max() for found in statistics(biased, images).values()]
    assert float(min(spans)) > 140
    for each in (clean, biased):
        fold(each, images, "key_centring")
    for path in decoder_attention_paths(clean):
        one, other = clean.get_submodule(path).k_proj, biased.get_submodule(path).k_proj
        assert torch.equal(one.weight, other.weight)
        assert torch.allclose(one.bias, other.bias, atol=1e-4)


def test_two_humps_are_found_and_become_one(nano: SamModel, scenes: tuple[CalibrationImage, ...]) -> None:
    clean, humps = attached(copy.deepcopy(nano)), attached(bimodal_keys(nano, magnitude=12.0))
    images = encoded(clean, scenes)
    before = statistics(humps, images)
    record = fold(humps, images, "bimodal_sign_flip")
    asked = [path for path in decoder_attention_paths(humps) if "token_to_image" in path]
    assert set(record) == set(asked)
    for path in asked:
        flipped = int((before[path].statistics[KEY].mean < 0).sum())
        assert record[path]["channels_flipped"] == flipped > 0
    after = statistics(humps, images)
    for path in asked:
        assert float(after[path].statistics[KEY].mean.min()) >= -1e-4
    assert fold(humps, images, "bimodal_sign_flip").keys() <= set(asked)


def test_one_or_three_humps_are_not_two() -> None:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(30_000, generator=draw)
    side = torch.randint(0, 2, (30_000,), generator=draw) * 2 - 1
    third = torch.randint(-1, 2, (30_000,), generator=draw)
    assert is_bimodal(Histogram.of(normal + 8 * side))
    assert not is_bimodal(Histogram.of(normal))
    assert not is_bimodal(Histogram.of(normal + 0.8 * side))
    assert not is_bimodal(Histogram.of(normal + 12 * third))
    assert not is_bimodal(Histogram.of(torch.zeros(100)))


def test_a_channel_without_mean_keeps_its_sign(nano: SamModel) -> None:
    """The published code multiplies it by sign(0) = 0."""
    model = attached(nano)
    projections = Projections(model.get_submodule(decoder_attention_paths(model)[1]))
    keys = torch.tensor([[1.0, -2.0, 3.0], [1.0, -2.0, -3.0]])
    projections.observe(KEY, keys)
    assert key_signs(projections).tolist() == [1.0, -1.0, 1.0]


def test_balance_is_bounded_for_dead_channels() -> None:
    factors = balance(torch.tensor([4.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert bool(torch.isfinite(factors).all())
    assert float(factors[0]) == 2.0
    assert float(torch.maximum(factors, 1 / factors).max()) <= 1000


Breaking = Callable[[SamModel], None]


def test_a_fold_that_changes_the_function_is_refused(
    nano: SamModel, scenes: tuple[CalibrationImage, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attached(nano)
    images = encoded(model, scenes)

    def wrong(projections: Projections) -> float:
        projections.rows(QUERY)[1].add_(3.0)  # unlike the key's, this bias matters
        return 3.0

    # No fold that there is changes the function, so one that does is put in its place.
    monkeypatch.setattr("saqsam.folds.apply.centre_keys", wrong)
    with pytest.raises(InvariantError, match="a fold changed the float output"):
        fold(model, images, "key_centring")


@pytest.mark.parametrize("switch", ["key_centring", "query_key_equalisation", "value_output_scaling"])
def test_nan_in_a_weight_is_a_numerical_error_at_its_attention(
    nano: SamModel, scenes: tuple[CalibrationImage, ...], switch: str
) -> None:
    model = attached(nano)
    images = encoded(model, scenes)
    path = "mask_decoder.transformer.layers.1.self_attn"
    model.get_submodule(path).k_proj.weight[3, 3] = torch.nan
    with pytest.raises(NumericalError) as caught:
        fold(model, images, switch)
    assert caught.value.site == f"{path}:key"
