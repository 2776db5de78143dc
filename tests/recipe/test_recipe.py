"""Recipes: loading by name, adjusting, and going through YAML and JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.errors import RecipeError
from saqsam.recipe import (
    PCC_PERCENTILES,
    Bits,
    Calibration,
    Clip,
    Folds,
    Override,
    Ranges,
    Recipe,
    list_recipes,
    load_recipe,
    parse_bits,
)
from saqsam.recipe.schema import describe

NAMES = [
    *("rtn", "percentile", "mse", "adaround", "brecq", "qdrop"),
    *("ptq4sam-s", "ptq4sam-l", "ptq4sam-l-paper", "ahcptq", "saq-sam-star", "saq-sam-fast", "saq-sam"),
    *("saq-sam-paper", "best-closed-form", "best"),
]

widths = st.integers(2, 8)
words = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=30)
shares = st.floats(0.5, 1.0)
bits = st.builds(Bits, weights=widths, activations=widths)
ranges = st.builds(
    Ranges,
    method=st.sampled_from(["minmax", "percentile", "mse"]),
    percentile=shares,
    norm=st.floats(0.5, 8.0),
)
folds = st.builds(Folds, *[st.booleans()] * 8)
clips = st.builds(
    Clip,
    method=st.sampled_from(["none", "pcc"]),
    focus_threshold=st.floats(0.01, 0.99),
    sweeps=st.integers(1, 10),
    images=st.integers(1, 1024),
    prompts=st.integers(1, 1024),
    percentiles=st.lists(shares, min_size=1, max_size=40, unique=True).map(lambda p: tuple(sorted(p))),
    independent_bounds=st.booleans(),
)
overrides = st.one_of(
    st.builds(
        Override,
        bits=st.none() | widths,
        grid=st.none() | st.sampled_from(["affine", "log2"]),
        ranges=st.none() | ranges,
    ),
    st.just(Override(keep_float=True)),
)
recipes = st.builds(
    Recipe,
    name=words.filter(str.strip).filter(str.isprintable),
    description=words.filter(str.isprintable) | st.just(""),
    encoder=bits,
    decoder=bits,
    attention_grid=st.sampled_from(["affine", "log2"]),
    weight_ranges=ranges,
    activation_ranges=ranges,
    folds=folds,
    clip=clips,
    calibration=st.builds(Calibration, st.integers(1, 999), st.integers(1, 99), st.integers(0, 2**32 - 1)),
    rel_pos_query=st.sampled_from(["quantized", "float"]),
    float_dtype=st.sampled_from(["float16", "float32"]),
    overrides=st.dictionaries(words.filter(str.isprintable), overrides, max_size=4),
)


@given(recipes)
@settings(max_examples=100, deadline=None)
def test_a_recipe_goes_through_yaml_and_json_unchanged(recipe: Recipe) -> None:
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    through_json = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert through_json == recipe
    assert through_json.recipe_hash == recipe.recipe_hash


def test_shipped_recipes_are_listed_simplest_first() -> None:
    assert [recipe.name for recipe in list_recipes()] == NAMES
    assert all(recipe.description for recipe in list_recipes())


@pytest.mark.parametrize("name", NAMES)
def test_bits_default_to_w4a4_and_come_from_the_name_or_the_argument(name: str) -> None:
    assert load_recipe(name).bits.removesuffix(" mixed") == "w4a4"
    assert load_recipe(f"{name}-w6a8").bits.removesuffix(" mixed") == "w6a8"
    assert load_recipe(name, bits="W6a8") == load_recipe(f"{name}-w6a8")
    assert load_recipe(f"{name}-w3a3", bits="w3a3").decoder == Bits(3, 3)


def test_what_each_shipped_recipe_means() -> None:
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    rtn, percentile, mse = (recipes[name] for name in ("rtn", "percentile", "mse"))
    ptq4sam, star = recipes["ptq4sam-s"], recipes["saq-sam-star"]
    assert rtn.weight_ranges.method == rtn.activation_ranges.method == "minmax"
    assert rtn.attention_grid == "affine"
    assert percentile.activation_ranges.method == "percentile"
    assert mse.weight_ranges == mse.activation_ranges == Ranges("mse", norm=2.4)
    assert ptq4sam.folds == Folds(bimodal_sign_flip=True)
    assert (ptq4sam.attention_grid, ptq4sam.activation_ranges.method) == ("log2", "minmax")
    assert ptq4sam.weight_ranges.method == "mse"
    assert star.folds == ptq4sam.folds
    assert (star.attention_grid, star.activation_ranges.method) == ("log2", "mse")
    assert star.clip == Clip(method="pcc", focus_threshold=0.5, sweeps=2, percentiles=PCC_PERCENTILES)
    assert [r.clip.method for r in (rtn, percentile, mse, ptq4sam)] == ["none"] * 4
    assert not any(r.reconstruct.learns for r in (rtn, percentile, mse, ptq4sam, star))
    saq, long = recipes["saq-sam"], recipes["ptq4sam-l"]
    assert (saq.clip, saq.folds, saq.attention_grid) == (star.clip, star.folds, star.attention_grid)
    assert (saq.reconstruct.encoder, saq.reconstruct.decoder, saq.reconstruct.unit) == ("par", "par", "stage")
    assert (long.folds, long.activation_ranges) == (ptq4sam.folds, ptq4sam.activation_ranges)
    assert (long.reconstruct.encoder, long.reconstruct.unit) == ("local", "block")


def test_the_29_percentiles_ascend() -> None:
    assert len(PCC_PERCENTILES) == 29
    assert list(PCC_PERCENTILES) == sorted(set(PCC_PERCENTILES))


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("clip.focus_threshold=0.6", ("clip", "focus_threshold"), 0.6),
        ("clip.focus_threshold = 6e-1", ("clip", "focus_threshold"), 0.6),
        ("clip.sweeps=3", ("clip", "sweeps"), 3),
        ("clip.method=none", ("clip", "method"), "none"),
        ("clip.independent_bounds=true", ("clip", "independent_bounds"), True),
        ("clip.percentiles=0.9, 0.99", ("clip", "percentiles"), (0.9, 0.99)),
        ("clip.percentiles=[0.9]", ("clip", "percentiles"), (0.9,)),
        ("encoder.weights=8", ("encoder", "weights"), 8),
        ("description=a: b # c", ("description",), "a: b # c"),
        ("name=7", ("name",), "7"),
    ],
)
def test_settings_are_read_as_their_fields_type(setting: str, path: tuple[str, ...], value: object) -> None:
    found: object = load_recipe("saq-sam-star", settings=[setting])
    for key in path:
        found = getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_settings_reach_overrides_whose_pattern_contains_dots() -> None:
    recipe = load_recipe(
        "mse",
        settings=[
            "overrides.vision_encoder.layers.0.*:weight.bits=8",
            "overrides.vision_encoder.layers.0.*:weight.ranges.method=minmax",
            "overrides.*.attn.proj:input.keep_float=true",
        ],
    )
    assert recipe.overrides == {
        "vision_encoder.layers.0.*:weight": Override(bits=8, ranges=Ranges("minmax")),
        "*.attn.proj:input": Override(keep_float=True),
    }


def test_settings_win_over_bits_and_later_settings_over_earlier() -> None:
    recipe = load_recipe("mse", bits="w4a4", settings=["encoder.weights=6", "encoder.weights=8"])
    assert (recipe.encoder, recipe.decoder) == (Bits(8, 4), Bits(4, 4))
    assert recipe.bits == "w8a4/w4a4"


def test_the_hash_follows_the_values_and_nothing_else() -> None:
    mse = load_recipe("mse")
    assert mse.recipe_hash == load_recipe("mse-w4a4").recipe_hash
    assert mse.recipe_hash != load_recipe("mse-w4a5").recipe_hash
    assert len(mse.recipe_hash) == 64
    whole = Recipe.from_dict({"name": "n", "weight_ranges": {"norm": 2}})
    assert whole == Recipe.from_dict({"name": "n", "weight_ranges": {"norm": 2.0}})
    assert whole.recipe_hash == Recipe("n", weight_ranges=Ranges(norm=2.0)).recipe_hash


def test_a_recipe_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(load_recipe("saq-sam-star-w6a6").to_yaml(), encoding="utf-8")
    assert load_recipe(path) == load_recipe("saq-sam-star-w6a6")
    assert load_recipe(str(path), bits="w3a3").bits == "w3a3"


def test_a_plain_constructor_checks_values_too() -> None:
    with pytest.raises(RecipeError, match=r"Clip\.focus_threshold: 2\.0 is outside 0\.01 to 0\.99"):
        Clip(focus_threshold=2.0)
    with pytest.raises(RecipeError, match=r"Bits\.weights: expected integer, 2 to 8, found True"):
        dataclasses.replace(Bits(), weights=True)


def test_yaml_explains_every_key() -> None:
    text = load_recipe("saq-sam-star").to_yaml()
    flowed = " ".join(text.replace("#", " ").split())
    for row in describe(Recipe):
        if "<pattern>" not in row.key:
            assert row.help in flowed, row.key
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("text", "pair"), [("w4a4", (4, 4)), ("w2a8", (2, 8)), ("W3A5", (3, 5))])
def test_bits_text(text: str, pair: tuple[int, int]) -> None:
    assert parse_bits(text) == pair
